// SPDX-License-Identifier: MIT
//! A kernel from an expression, in Rust: the few C functions it takes, declared by hand. With the library installed:
//!
//!     rustc --edition 2021 examples/kernel.rs -C link-args="$(pkg-config --libs zmlx-mlxc)"
use std::ffi::{c_char, c_int, c_void, CStr};
use std::{mem, process, ptr, slice};

/// Handles of mlx-c: a struct around a pointer, passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
struct Handle {
    ctx: *mut c_void,
}
type Array = Handle;
type Stream = Handle;

#[repr(C)]
struct Error {
    code: c_int,
    column: c_int,
    place: [c_char; 256], // `where` in C
    message: [c_char; 1024],
}

enum Kernel {}

const MLX_FLOAT32: c_int = 10;

extern "C" {
    fn mlx_array_new() -> Array;
    fn mlx_array_new_data(data: *const c_void, shape: *const c_int, dim: c_int, dtype: c_int) -> Array;
    fn mlx_array_eval(array: Array) -> c_int;
    fn mlx_array_size(array: Array) -> usize;
    fn mlx_array_data_float32(array: Array) -> *const f32;
    fn mlx_array_free(array: Array) -> c_int;
    fn mlx_default_cpu_stream_new() -> Stream;
    fn mlx_stream_free(stream: Stream) -> c_int;
    fn zmlx_elementwise(
        kernel: *mut *mut Kernel,
        name: *const c_char,
        expression: *const c_char,
        options: *const c_void,
        error: *mut Error,
    ) -> c_int;
    fn zmlx_kernel_apply(
        kernel: *mut Kernel,
        outputs: *mut Array,
        inputs: *const Array,
        n_inputs: usize,
        stream: Stream,
        error: *mut Error,
    ) -> c_int;
    fn zmlx_kernel_free(kernel: *mut Kernel);
}

fn check(status: c_int, error: &Error) {
    if status != 0 {
        let text = |bytes: &[c_char]| unsafe { CStr::from_ptr(bytes.as_ptr()) }.to_string_lossy().into_owned();
        eprintln!("{}: {}", text(&error.place), text(&error.message));
        process::exit(1);
    }
}

fn main() {
    let values = [-1.0f32, 0.0, 0.5, 2.0];
    let shape = [values.len() as c_int];
    unsafe {
        let mut error: Error = mem::zeroed();
        let stream = mlx_default_cpu_stream_new();
        let x = mlx_array_new_data(values.as_ptr().cast(), shape.as_ptr(), 1, MLX_FLOAT32);
        let mut y = mlx_array_new();
        let mut mish = ptr::null_mut();
        let text = c"x * tanh(log(1 + exp(x)))".as_ptr();
        check(zmlx_elementwise(&mut mish, c"mish".as_ptr(), text, ptr::null(), &mut error), &error);
        check(zmlx_kernel_apply(mish, &mut y, &x, 1, stream, &mut error), &error);
        check(mlx_array_eval(y), &error);
        println!("mish(x): {:.6?}", slice::from_raw_parts(mlx_array_data_float32(y), mlx_array_size(y)));
        zmlx_kernel_free(mish);
        mlx_array_free(y);
        mlx_array_free(x);
        mlx_stream_free(stream);
    }
}
