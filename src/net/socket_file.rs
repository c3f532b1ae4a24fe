//! Unix sockets that are listened on: the file is there with its mode from its first moment, takes the place of nothing
//! but a dead socket, and goes only with the socket that it was made for, whichever process has that by then.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Device and inode.
pub type FileId = (u64, u64);

/// A listening socket's file; removed when this is dropped, unless another has taken its name.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: FileId,
    mode: u32,
    /// Whether it goes with this process.
    ours: bool,
}

impl SocketFile {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of a socket that another process still has, until [`SocketFile::own`]. None where it is not this file
    /// that has the name.
    pub fn of_another(path: &Path, mode: u32, id: FileId) -> Option<SocketFile> {
        let file = SocketFile { path: path.to_owned(), id, mode, ours: false };
        file.is_there().then_some(file)
    }

    pub fn id(&self) -> FileId {
        self.id
    }

    /// It is removed when this is dropped, and has the mode that this process wants.
    pub fn own(&mut self) {
        self.ours = true;
        let is = self.path.symlink_metadata().map(|found| found.permissions().mode() & 0o7777);
        if is.is_ok_and(|is| is != self.mode) && self.is_there() {
            let set = fs::set_permissions(&self.path, fs::Permissions::from_mode(self.mode));
            if let Err(error) = set {
                tracing::warn!(file = %self.path.display(), %error, "the socket's file keeps the mode that it had");
            }
        }
    }

    fn is_there(&self) -> bool {
        self.path.symlink_metadata().is_ok_and(|found| (found.dev(), found.ino()) == self.id)
    }

    /// Another process has the socket now, and the file stays.
    pub fn leave(&mut self) {
        self.ours = false;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.ours && self.is_there() {
            // Somebody else may have been faster; what is left is seen as dead at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on `path`, non-blocking, with the file's `mode`. A socket that nobody answers at is left over from a process
/// that was killed and is replaced. `AddrInUse` where somebody answers, `AlreadyExists` where a file is no socket.
pub fn bind(path: &Path, mode: u32, backlog: i32) -> io::Result<(UnixListener, SocketFile)> {
    use socket2::{Domain, SockAddr, Socket, Type};
    remove_dead(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux makes the file with no more than the socket's own mode: nobody slips in before the change below. Elsewhere
    // this may fail, which leaves the moment between.
    let _ = rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode));
    socket.bind(&SockAddr::unix(path)?)?;
    let made = path.symlink_metadata()?;
    let file = SocketFile { path: path.to_owned(), id: (made.dev(), made.ino()), mode, ours: true };
    // What the umask took off.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.set_nonblocking(true)?;
    socket.listen(backlog)?;
    Ok((socket.into(), file))
}

fn remove_dead(path: &Path) -> io::Result<()> {
    let Ok(found) = path.symlink_metadata() else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket has this name"));
    }
    match connect_at_once(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        _ => return Err(io::ErrorKind::AddrInUse.into()),
    }
    // Between the look and now another process may have begun to listen there.
    match path.symlink_metadata() {
        Ok(now) if (now.dev(), now.ino()) == (found.dev(), found.ino()) => fs::remove_file(path),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(_) => Ok(()),
    }
}

/// Whether somebody listens; does not wait where the queue of a busy one is full.
fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    use socket2::{Domain, SockAddr, Socket, Type};
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dead process leaves its file");
        let (listener, file) = bind(&path, 0o660, 16).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(file.path(), path);
        assert_eq!(bind(&path, 0o660, 16).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(UnixStream::connect(&path).unwrap());
        drop((listener, file));
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        let refused = bind(&path, 0o660, 16).unwrap_err();
        assert!(refused.to_string().contains("no socket"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert_eq!(bind(&path, 0o660, 16).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_full_queue_is_a_live_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("busy.sock");
        let (_listener, _file) = bind(&path, 0o600, 0).unwrap();
        let waiting: Vec<_> = (0..4).map_while(|_| connect_at_once(&path).ok()).collect();
        assert!(waiting.len() < 4, "the queue takes all that come");
        assert_eq!(bind(&path, 0o600, 16).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
    }

    #[test]
    fn a_file_goes_with_the_process_that_has_it_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let (_listener, mut first) = bind(&path, 0o600, 16).unwrap();
        drop(SocketFile::of_another(&path, 0o660, first.id()).unwrap());
        assert!(path.exists(), "who did not take over takes nothing away");
        let mut second = SocketFile::of_another(&path, 0o660, first.id()).unwrap();
        first.leave();
        drop(first);
        assert!(path.exists());
        second.own();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660, "the mode is the new one's");
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn what_has_taken_the_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let old = bind(&path, 0o600, 16).unwrap();
        std::fs::remove_file(&path).unwrap();
        let new = bind(&path, 0o600, 16).unwrap();
        drop(old);
        assert!(path.exists(), "the old one's end took the new one's file");
        drop(new);
        assert!(!path.exists());
    }
}
