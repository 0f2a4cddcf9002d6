//! The supervisor alone, as the tests of this crate run it: `oci-supervisor DIR`.

fn main() -> std::process::ExitCode {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("usage: oci-supervisor DIR");
        return 2.into();
    };
    match oci::supervisor::run(std::path::Path::new(&dir), || {}) {
        Ok(()) => 0.into(),
        Err(e) => {
            eprintln!("supervisor failed: {e}");
            1.into()
        }
    }
}
