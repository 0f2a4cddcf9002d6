//! How the binary is linked: without symbols when it is for release, and with relocations packed where the C library
//! can read them, 2 MB less of file.

use std::ffi::CStr;

/// glibc reads packed relocations from this version on.
const FIRST: (u32, u32) = (2, 36);

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let gnu_linux = ["CARGO_CFG_TARGET_OS", "CARGO_CFG_TARGET_ENV"].map(|name| std::env::var(name).ok())
        == [Some("linux".to_string()), Some("gnu".to_string())];
    // Cargo's `strip` is not taken by a crate whose package has a profile of its own.
    if gnu_linux && std::env::var("PROFILE").as_deref() == Ok("release") {
        println!("cargo:rustc-link-arg-bins=-Wl,--strip-all");
    }
    // A static binary carries the library it is built against; another machine's would be a guess.
    let native = std::env::var("HOST") == std::env::var("TARGET");
    if gnu_linux && native && glibc().is_some_and(|version| version >= FIRST) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn glibc() -> Option<(u32, u32)> {
    unsafe extern "C" {
        fn gnu_get_libc_version() -> *const std::ffi::c_char;
    }
    // SAFETY: the function takes nothing and gives a text with an end that lives as long as the program.
    let text = unsafe { CStr::from_ptr(gnu_get_libc_version()) }.to_str().ok()?;
    let (major, rest) = text.split_once('.')?;
    Some((major.parse().ok()?, rest.split('.').next()?.parse().ok()?))
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn glibc() -> Option<(u32, u32)> {
    None
}
