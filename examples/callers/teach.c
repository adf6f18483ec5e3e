/* Teaches an exported network two drawings, a ring (0) and a bar (1), in C:

     nnc export examples/cnn_digits.nn --to digits_c
     cc teach.c -o teach -Idigits_c -Ldigits_c -ldigits -Wl,-rpath,$PWD/digits_c
     ./teach digits_c/weights.bin

   The programs beside this one do the same, and print the same. */
#include "digits.h"
#include <stdio.h>

static _Alignas(DIGITS_ALIGNMENT) unsigned char weights[DIGITS_WEIGHTS_BYTES];
static _Alignas(DIGITS_ALIGNMENT) unsigned char values[DIGITS_VALUES_BYTES];
static _Alignas(DIGITS_ALIGNMENT) unsigned char training[DIGITS_TRAIN_STEP_ARENA_BYTES];
static _Alignas(DIGITS_ALIGNMENT) unsigned char arena[DIGITS_PREDICT_ARENA_BYTES];

static void draw(float *image, int digit) {
    for (int row = 0; row < 8; row++)
        for (int column = 0; column < 8; column++) {
            int far = (2 * row - 7) * (2 * row - 7) + (2 * column - 7) * (2 * column - 7);
            int ink = digit == 0 ? far > 8 && far < 40 : column == 3 || column == 4;
            image[8 * row + column] = ink ? 1.0f : 0.0f;
        }
}

static int stop(int code) {
    fprintf(stderr, "%s\n", digits_message(code));
    return code;
}

int main(int count, char **names) {
    int code = digits_check(DIGITS_ABI);
    if (code) return stop(code);
    FILE *file = count > 1 ? fopen(names[1], "rb") : NULL;
    if (!file || fread(weights, 1, sizeof weights, file) != sizeof weights) {
        fprintf(stderr, "usage: teach weights.bin\n");
        return 1;
    }
    fclose(file);
    code = digits_init(values, sizeof values, weights, sizeof weights);
    if (code) return stop(code);
    for (int step = 1; step <= 20; step++) {
        for (int n = 0; n < DIGITS_BATCH; n++) {
            draw(digits_train_step_image(training) + 64 * n, n % 2);
            digits_train_step_label(training)[n] = n % 2;
        }
        code = digits_train_step(training, sizeof training, values, sizeof values);
        if (code) return stop(code);
        if (step % 10 == 0) printf("step %d loss %.6f\n", step, *digits_train_step_loss(training));
    }
    for (int digit = 0; digit < 2; digit++) {
        draw(digits_predict_image(arena), digit);
        code = digits_predict(arena, sizeof arena, values, sizeof values, 1);
        if (code) return stop(code);
        const float *logits = digits_predict_logits(arena);
        int best = 0;
        for (int n = 1; n < 10; n++)
            if (logits[n] > logits[best]) best = n;
        printf("%d is read as %d, logit %.6f\n", digit, best, logits[best]);
    }
    return 0;
}
