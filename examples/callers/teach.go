// Teaches an exported network two drawings, a ring (0) and a bar (1), in Go:
//
//	nnc export examples/cnn_digits.nn --to digits_c
//	export CGO_CFLAGS=-I$PWD/digits_c CGO_LDFLAGS="-L$PWD/digits_c -ldigits -Wl,-rpath,$PWD/digits_c"
//	go run teach.go digits_c/weights.bin
package main

/*
#include <stdlib.h>
#include "digits.h"
*/
import "C"

import (
	"fmt"
	"os"
	"unsafe"
)

// Memory of C, which Go's collector does not move, aligned as the library asks.
func memory(bytes int) unsafe.Pointer {
	line := int(C.DIGITS_ALIGNMENT)
	return C.aligned_alloc(C.size_t(line), C.size_t((bytes+line-1)/line*line))
}

func draw(image []C.float, digit int) {
	for row := 0; row < 8; row++ {
		for column := 0; column < 8; column++ {
			far := (2*row-7)*(2*row-7) + (2*column-7)*(2*column-7)
			ink := column == 3 || column == 4
			if digit == 0 {
				ink = far > 8 && far < 40
			}
			image[8*row+column] = 0
			if ink {
				image[8*row+column] = 1
			}
		}
	}
}

func check(code C.int) {
	if code != C.DIGITS_OK {
		fmt.Fprintln(os.Stderr, C.GoString(C.digits_message(code)))
		os.Exit(1)
	}
}

func main() {
	check(C.digits_check(C.DIGITS_ABI))
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: teach weights.bin")
		os.Exit(1)
	}
	file, err := os.ReadFile(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	weights := memory(len(file))
	copy(unsafe.Slice((*byte)(weights), len(file)), file)
	values, training := memory(C.DIGITS_VALUES_BYTES), memory(C.DIGITS_TRAIN_STEP_ARENA_BYTES)
	check(C.digits_init(values, C.DIGITS_VALUES_BYTES, weights, C.size_t(len(file))))
	images := unsafe.Slice(C.digits_train_step_image(training), 64*C.DIGITS_BATCH)
	labels := unsafe.Slice(C.digits_train_step_label(training), C.DIGITS_BATCH)
	for step := 1; step <= 20; step++ {
		for n := range labels {
			draw(images[64*n:64*n+64], n%2)
			labels[n] = C.int32_t(n % 2)
		}
		check(C.digits_train_step(
			training, C.DIGITS_TRAIN_STEP_ARENA_BYTES, values, C.DIGITS_VALUES_BYTES))
		if step%10 == 0 {
			fmt.Printf("step %d loss %.6f\n", step, float64(*C.digits_train_step_loss(training)))
		}
	}
	arena := memory(C.DIGITS_PREDICT_ARENA_BYTES)
	for digit := 0; digit < 2; digit++ {
		draw(unsafe.Slice(C.digits_predict_image(arena), 64), digit)
		check(C.digits_predict(
			arena, C.DIGITS_PREDICT_ARENA_BYTES, values, C.DIGITS_VALUES_BYTES, 1))
		logits, best := unsafe.Slice(C.digits_predict_logits(arena), 10), 0
		for n := range logits {
			if logits[n] > logits[best] {
				best = n
			}
		}
		fmt.Printf("%d is read as %d, logit %.6f\n", digit, best, float64(logits[best]))
	}
}
