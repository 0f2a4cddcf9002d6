//! The image of the demo: this very program, with the libraries it runs with if it is not static.

use std::collections::BTreeSet;
use std::path::PathBuf;

use oci::images::{Binary, ProcessConfig};

use crate::image::{self, Store};
use crate::{CliError, Doing};

/// What the manifests call it.
const NAME: &str = "localhost/shop:1";

/// Where this kind of machine's programs look for their loader.
const LOADER: &str =
    if cfg!(target_arch = "aarch64") { "/lib/ld-linux-aarch64.so.1" } else { "/lib64/ld-linux-x86-64.so.2" };

/// Puts the image on every node.
pub fn install(stores: &[Store]) -> Result<(), CliError> {
    let binary = binary()?;
    for store in stores {
        let what = format!("put the demo's image on node {}", store.node);
        image::open(store)?.from_binary(&binary).doing(what)?;
    }
    Ok(())
}

fn binary() -> Result<Binary, CliError> {
    let maps = std::fs::read_to_string("/proc/self/maps").doing("see which libraries this program uses")?;
    let mut files = Vec::new();
    let mut links = Vec::new();
    for library in libraries(&maps) {
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("ld-linux") && library.as_os_str() != LOADER {
            links.push((PathBuf::from(LOADER), library.clone()));
        }
        let bytes = std::fs::read(&library).doing(format!("read {}", library.display()))?;
        files.push((library, bytes));
    }
    Ok(Binary {
        name: NAME.into(),
        source: PathBuf::from("/proc/self/exe"),
        target: PathBuf::from("/kutter"),
        links,
        files,
        config: ProcessConfig {
            entrypoint: vec!["/kutter".into(), "shop".into()],
            working_dir: "/".into(),
            ..ProcessConfig::default()
        },
    })
}

/// The shared libraries among the mapped files; none for a static program.
fn libraries(maps: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| line.find('/').map(|at| line[at..].to_owned());
    let is_library = |p: &String| {
        let name = p.rsplit('/').next().unwrap_or_default();
        name.ends_with(".so") || name.contains(".so.")
    };
    maps.lines().filter_map(path).filter(is_library).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_map() {
        let maps = "55-56 r--p 0 fe:00 1 /usr/bin/kutter\n\
                    7f-80 r-xp 0 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                    7f-80 r--p 0 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                    7f-80 rw-p 0 00:00 0 [heap]\n7f-80 rw-p 0 00:00 0\n";
        let got: Vec<PathBuf> = libraries(maps).into_iter().collect();
        assert_eq!(got, [PathBuf::from("/usr/lib/x86_64-linux-gnu/libc.so.6")]);
    }
}
