//! The default class's volumes: directories under the node's data directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// The directory that holds the node's volumes.
#[derive(Debug, Clone)]
pub struct Pool {
    root: PathBuf,
}

impl Pool {
    /// The pool under a node's data directory.
    pub fn new(data: &Path) -> Pool {
        Pool { root: data.join("pv") }
    }

    /// Where the volume of this name is.
    pub fn path(&self, name: &str) -> Result<PathBuf, Error> {
        // What starts with a dot is on its way out.
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        if !plain {
            return Err(Error::Invalid(format!("volume name {name:?} is not a file name")));
        }
        Ok(self.root.join(name))
    }

    /// Makes the volume; idempotent.
    pub fn provision(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path(name)?;
        if !path.is_dir() {
            fs::create_dir_all(&path).map_err(Error::io("make directory", &path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))
                .map_err(Error::io("set mode of", &path))?;
            let parent = fs::File::open(&self.root).map_err(Error::io("open", &self.root))?;
            parent.sync_all().map_err(Error::io("sync", &self.root))?;
        }
        Ok(path)
    }

    /// Removes the volume with its data; idempotent. It is renamed first, so that a half-removed one is never used.
    pub fn delete(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name)?;
        let doomed = self.root.join(format!(".deleted-{name}"));
        if path.exists() {
            fs::rename(&path, &doomed).map_err(Error::io("rename", &path))?;
        }
        if doomed.exists() {
            fs::remove_dir_all(&doomed).map_err(Error::io("remove", &doomed))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_come_and_go() {
        let data = tempfile::tempdir().expect("dir");
        let pool = Pool::new(data.path());
        for bad in ["", ".", "..", ".deleted-a", "a/b", "../x"] {
            assert!(pool.provision(bad).is_err() && pool.delete(bad).is_err(), "{bad}");
        }
        let path = pool.provision("a").expect("made");
        fs::write(path.join("f"), "kept").expect("written");
        assert_eq!(pool.provision("a").expect("made again"), path);
        assert_eq!(fs::read_to_string(path.join("f")).expect("read"), "kept");
        // One whose removal was cut off goes with the next attempt.
        fs::create_dir_all(data.path().join("pv/.deleted-a/rest")).expect("rest");
        fs::rename(&path, data.path().join("pv/b")).expect("renamed");
        pool.delete("a").expect("removed");
        pool.delete("b").expect("removed");
        pool.delete("b").expect("removed again");
        assert_eq!(fs::read_dir(data.path().join("pv")).expect("pool").count(), 0);
    }
}
