//! Unix sockets and the files that name them.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// The file of a bound socket. Removed when this is dropped, unless another socket has taken its place. To be dropped before the socket: as long as that
/// is open, no other file gets its number.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// The device, and the file's number there.
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|now| now == self.inode) {
            // A file that stays is taken for stale by whoever binds there next.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.file_type().is_socket() {
        Ok((metadata.dev(), metadata.ino()))
    } else {
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"))
    }
}

/// Listens at a path; takes the place of a socket that nobody answers on. Cancel safe.
pub(super) async fn bind(path: &Path) -> io::Result<(SocketFile, UnixListener)> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path, error).await?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    Ok((SocketFile { path: path.to_owned(), inode: inode(path)? }, listener))
}

/// Removes the file of a socket that was not closed in order. `in_use` where somebody listens, even if more wait there than are accepted.
async fn remove_stale(path: &Path, in_use: io::Error) -> io::Result<()> {
    let inode = inode(path)?;
    match UnixStream::connect(path).await.map_err(|refusal| refusal.kind()) {
        Err(io::ErrorKind::ConnectionRefused) => drop(SocketFile { path: path.to_owned(), inode }),
        // It went away just now.
        Err(io::ErrorKind::NotFound) => {}
        _ => return Err(in_use),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_goes_with_its_socket_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (file, listener) = bind(&path).await.unwrap();
        assert_eq!(bind(&path).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(file);
        drop(listener);
        assert!(!path.exists());

        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as after a crash");
        let (_file, _listener) = bind(&path).await.unwrap();
        assert!(UnixStream::connect(&path).await.is_ok());

        fs::write(folder.path().join("file"), "not a socket").unwrap();
        assert!(bind(&folder.path().join("file")).await.is_err());
    }
}
