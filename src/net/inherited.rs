//! Listening sockets that came from the process before this one, by what they are bound to.

use super::socket_file::{FileId, SocketFile};
use std::os::fd::OwnedFd;
use std::path::Path;

/// A listening socket on its way from one process to the next.
#[derive(Debug)]
pub struct Handle {
    pub name: String,
    pub socket: OwnedFd,
    /// Of a unix socket.
    pub file: Option<FileId>,
}

/// Names may stand for several sockets: a TCP listener has one a worker.
#[derive(Debug, Default)]
pub struct Sockets {
    left: Vec<Handle>,
    taken: Vec<String>,
}

impl Sockets {
    pub fn new(sockets: Vec<Handle>) -> Sockets {
        Sockets { left: sockets, taken: Vec::new() }
    }

    /// Every socket of this name, in the order that they came in.
    pub fn take(&mut self, name: &str) -> Vec<OwnedFd> {
        let found: Vec<OwnedFd> = std::iter::from_fn(|| self.next(name)).collect();
        if !found.is_empty() {
            self.taken.push(name.to_owned());
        }
        found
    }

    /// The first socket of this name.
    pub fn take_one(&mut self, name: &str) -> Option<OwnedFd> {
        let found = self.next(name)?;
        self.taken.push(name.to_owned());
        Some(found)
    }

    /// The unix socket of this name with its file, which is to have this mode. None where there is no such socket, or its
    /// file is gone or has become another's: nobody can come by it any more.
    pub fn take_file(&mut self, name: &str, path: &Path, mode: u32) -> Option<(OwnedFd, SocketFile)> {
        let at = self.left.iter().position(|own| own.name == name)?;
        let file = SocketFile::of_another(path, mode, self.left[at].file?)?;
        self.taken.push(name.to_owned());
        Some((self.left.remove(at).socket, file))
    }

    /// Those that nobody took, and the names of those that were taken.
    pub fn into_parts(self) -> (Vec<Handle>, Vec<String>) {
        (self.left, self.taken)
    }

    fn next(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.left.iter().position(|own| own.name == name)?;
        Some(self.left.remove(at).socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_taken_by_name_and_each_once() {
        let socket = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let names = ["a", "b", "a", "c"];
        let handle = |name: &&str| Handle { name: (*name).to_owned(), socket: socket(), file: None };
        let mut sockets = Sockets::new(names.iter().map(handle).collect());
        assert_eq!(sockets.take("a").len(), 2);
        assert!(sockets.take("a").is_empty() && sockets.take_one("a").is_none());
        assert!(sockets.take_one("c").is_some() && sockets.take_one("c").is_none());
        let (left, taken) = sockets.into_parts();
        assert_eq!((left.len(), left[0].name.as_str()), (1, "b"));
        assert_eq!(taken, ["a", "c"]);
    }

    #[test]
    fn a_unix_socket_goes_over_only_with_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let bind = || crate::net::socket_file::bind(&path, 0o600, 16).unwrap();
        let (listener, file) = bind();
        let sockets = |id| {
            let socket = OwnedFd::from(listener.try_clone().unwrap());
            Sockets::new(vec![Handle { name: "unix".to_owned(), socket, file: Some(id) }])
        };
        let (_, taken) = sockets(file.id()).take_file("unix", &path, 0o600).expect("it is there");
        assert_eq!(taken.path(), path);
        std::fs::remove_file(&path).unwrap();
        assert!(sockets(file.id()).take_file("unix", &path, 0o600).is_none(), "the file is gone");
        let _another = bind();
        let mut late = sockets(file.id());
        assert!(late.take_file("unix", &path, 0o600).is_none(), "another has the name");
        assert!(late.into_parts().1.is_empty(), "nothing was taken");
    }
}
