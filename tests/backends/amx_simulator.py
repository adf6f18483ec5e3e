"""AMX in memory: functions that do what the instructions do, on tile registers on the stack.

So code for tiles runs on any processor. A register keeps what the reference gives it: configuring
clears all, a load fills what is beyond the configured rows and bytes with zeros, and without a
configuration (before the kernel's beginning, after its end) a register has no rows.
"""

from __future__ import annotations

from nnc.compiler.codegen.llvm.function_writer import FunctionWriter

SIZE = 8 * 1024 + 64  # eight registers, then the configuration

HELPERS = """
define internal ptr @sim.tile(ptr %tiles, i64 %t) {
  %o = mul i64 %t, 1024
  %p = getelementptr i8, ptr %tiles, i64 %o
  ret ptr %p
}
define internal i64 @sim.rows(ptr %tiles, i64 %t) {
  %o = add i64 %t, 8240
  %p = getelementptr i8, ptr %tiles, i64 %o
  %v = load i8, ptr %p
  %w = zext i8 %v to i64
  ret i64 %w
}
define internal i64 @sim.bytes(ptr %tiles, i64 %t) {
  %d = mul i64 %t, 2
  %o = add i64 %d, 8208
  %p = getelementptr i8, ptr %tiles, i64 %o
  %v = load i16, ptr %p
  %w = zext i16 %v to i64
  ret i64 %w
}
define internal void @sim.configure(ptr %tiles, ptr %from) {
  call void @llvm.memset.p0.i64(ptr %tiles, i8 0, i64 8192, i1 false)
  %p = getelementptr i8, ptr %tiles, i64 8192
  call void @llvm.memcpy.p0.p0.i64(ptr %p, ptr %from, i64 64, i1 false)
  ret void
}
define internal void @sim.release(ptr %tiles) {
  call void @llvm.memset.p0.i64(ptr %tiles, i8 0, i64 8256, i1 false)
  ret void
}
define internal void @sim.zero(ptr %tiles, i64 %t) {
  %p = call ptr @sim.tile(ptr %tiles, i64 %t)
  call void @llvm.memset.p0.i64(ptr %p, i8 0, i64 1024, i1 false)
  ret void
}
define internal void @sim.move(
  ptr %to, i64 %to_stride, ptr %from, i64 %from_stride, i64 %rows, i64 %bytes
) {
entry:
  %some = icmp sgt i64 %rows, 0
  br i1 %some, label %loop, label %done
loop:
  %r = phi i64 [ 0, %entry ], [ %next, %loop ]
  %a = mul i64 %r, %to_stride
  %b = mul i64 %r, %from_stride
  %p = getelementptr i8, ptr %to, i64 %a
  %q = getelementptr i8, ptr %from, i64 %b
  call void @llvm.memcpy.p0.p0.i64(ptr %p, ptr %q, i64 %bytes, i1 false)
  %next = add i64 %r, 1
  %more = icmp slt i64 %next, %rows
  br i1 %more, label %loop, label %done
done:
  ret void
}
define internal void @sim.load(ptr %tiles, i64 %t, ptr %from, i64 %stride) {
  call void @sim.zero(ptr %tiles, i64 %t)
  %p = call ptr @sim.tile(ptr %tiles, i64 %t)
  %rows = call i64 @sim.rows(ptr %tiles, i64 %t)
  %bytes = call i64 @sim.bytes(ptr %tiles, i64 %t)
  call void @sim.move(ptr %p, i64 64, ptr %from, i64 %stride, i64 %rows, i64 %bytes)
  ret void
}
define internal void @sim.store(ptr %tiles, i64 %t, ptr %to, i64 %stride) {
  %p = call ptr @sim.tile(ptr %tiles, i64 %t)
  %rows = call i64 @sim.rows(ptr %tiles, i64 %t)
  %bytes = call i64 @sim.bytes(ptr %tiles, i64 %t)
  call void @sim.move(ptr %to, i64 %stride, ptr %p, i64 64, i64 %rows, i64 %bytes)
  ret void
}
define internal float @sim.half(i32 %pair, i32 %up) {
  %s = shl i32 %pair, %up
  %m = and i32 %s, -65536
  %f = bitcast i32 %m to float
  ret float %f
}
define internal void @sim.multiply(ptr %tiles, i64 %c, i64 %a, i64 %b) {
entry:
  %pc = call ptr @sim.tile(ptr %tiles, i64 %c)
  %pa = call ptr @sim.tile(ptr %tiles, i64 %a)
  %pb = call ptr @sim.tile(ptr %tiles, i64 %b)
  %rows = call i64 @sim.rows(ptr %tiles, i64 %c)
  %steps = call i64 @sim.rows(ptr %tiles, i64 %b)
  %bytes = call i64 @sim.bytes(ptr %tiles, i64 %c)
  %columns = udiv i64 %bytes, 4
  %two = mul i64 %rows, %steps
  %all = mul i64 %two, %columns
  %some = icmp sgt i64 %all, 0
  br i1 %some, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %n = urem i64 %i, %columns
  %mk = udiv i64 %i, %columns
  %k = urem i64 %mk, %steps
  %m = udiv i64 %mk, %steps
  %m16 = mul i64 %m, 16
  %k16 = mul i64 %k, 16
  %ia = add i64 %m16, %k
  %ib = add i64 %k16, %n
  %ic = add i64 %m16, %n
  %qa = getelementptr i32, ptr %pa, i64 %ia
  %qb = getelementptr i32, ptr %pb, i64 %ib
  %qc = getelementptr float, ptr %pc, i64 %ic
  %va = load i32, ptr %qa
  %vb = load i32, ptr %qb
  %vc = load float, ptr %qc
  %al = call float @sim.half(i32 %va, i32 16)
  %ah = call float @sim.half(i32 %va, i32 0)
  %bl = call float @sim.half(i32 %vb, i32 16)
  %bh = call float @sim.half(i32 %vb, i32 0)
  %x = fmul float %al, %bl
  %y = fmul float %ah, %bh
  %s = fadd float %vc, %x
  %u = fadd float %s, %y
  store float %u, ptr %qc
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %all
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


def _call(e: FunctionWriter, name: str, arguments: str, *operands: str) -> None:
    e.declare("declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
    e.declare("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
    e.declare(HELPERS)
    # An operation without operands: one allocation in the entry block.
    tiles = e.op(f"alloca [{SIZE} x i8], align 64", type="ptr")
    e.effect(f"call void @sim.{name}(ptr {tiles}{arguments})", *operands)


class Simulated:
    """In place of `codegen.llvm.amx.Instructions`."""

    @staticmethod
    def configure(e: FunctionWriter, pointer: str) -> None:
        _call(e, "configure", ", ptr {0}", pointer)

    @staticmethod
    def release(e: FunctionWriter) -> None:
        _call(e, "release", "")

    @staticmethod
    def zero(e: FunctionWriter, tile: int) -> None:
        _call(e, "zero", f", i64 {tile}")

    @staticmethod
    def load(e: FunctionWriter, tile: int, pointer: str, stride: int) -> None:
        _call(e, "load", f", i64 {tile}, ptr {{0}}, i64 {stride}", pointer)

    @staticmethod
    def store(e: FunctionWriter, tile: int, pointer: str, stride: int) -> None:
        _call(e, "store", f", i64 {tile}, ptr {{0}}, i64 {stride}", pointer)

    @staticmethod
    def multiply(e: FunctionWriter, into: int, left: int, right: int) -> None:
        _call(e, "multiply", f", i64 {into}, i64 {left}, i64 {right}")
