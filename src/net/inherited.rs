//! Listening sockets that came from the process before this one, by what they are bound to.

use std::os::fd::OwnedFd;

/// Names may stand for several sockets: a TCP listener has one a worker.
#[derive(Debug, Default)]
pub struct Sockets {
    left: Vec<(String, OwnedFd)>,
    taken: Vec<String>,
}

impl Sockets {
    pub fn new(sockets: Vec<(String, OwnedFd)>) -> Sockets {
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

    /// Those that nobody took, and the names of those that were taken.
    pub fn into_parts(self) -> (Vec<(String, OwnedFd)>, Vec<String>) {
        (self.left, self.taken)
    }

    fn next(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.left.iter().position(|(own, _)| own == name)?;
        Some(self.left.remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_taken_by_name_and_each_once() {
        let socket = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let names = ["a", "b", "a", "c"];
        let mut sockets = Sockets::new(names.iter().map(|name| ((*name).to_owned(), socket())).collect());
        assert_eq!(sockets.take("a").len(), 2);
        assert!(sockets.take("a").is_empty() && sockets.take_one("a").is_none());
        assert!(sockets.take_one("c").is_some() && sockets.take_one("c").is_none());
        let (left, taken) = sockets.into_parts();
        assert_eq!((left.len(), left[0].0.as_str()), (1, "b"));
        assert_eq!(taken, ["a", "c"]);
    }
}
