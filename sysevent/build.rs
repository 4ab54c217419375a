// SPDX-License-Identifier: MIT OR Apache-2.0
//! The name that programs find the library by.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,librdma-sysevent.so.1");
}
