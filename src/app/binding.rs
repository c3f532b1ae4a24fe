//! The listeners' sockets: inherited from the process before, handed over by systemd, or bound anew.

use super::activation::Passed;
use crate::config::{Bind, Listener};
use crate::net::address::Address;
use crate::net::inherited::{Handle, Sockets};
use crate::net::socket_file::{self, FileId, SocketFile};
use crate::proxy::worker::{self, BACKLOG, Listening};
use socket2::{Domain, SockRef};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// What is bound so far.
pub(super) struct Binding {
    workers: usize,
    pub(super) inherited: Sockets,
    passed: Passed,
    bound: Bound,
}

/// All that is bound.
#[derive(Default)]
pub(super) struct Bound {
    /// Worker, listener by its place in the configuration, and socket.
    pub(super) sockets: Vec<(usize, usize, Listening)>,
    /// Each listener's name and address.
    pub(super) addresses: Vec<(String, Address)>,
    /// A handle on each socket, for the process that takes this one's place.
    pub(super) handles: Vec<Handle>,
    /// Of unix sockets, with the name of the socket.
    pub(super) files: Vec<(String, SocketFile)>,
}

impl Binding {
    pub(super) fn new(workers: usize, inherited: Sockets) -> Binding {
        Binding { workers, inherited, passed: Passed::from_env(), bound: Bound::default() }
    }

    /// Gives every worker sockets of the listener at this place.
    pub(super) fn bind(&mut self, place: usize, listener: &Listener) -> io::Result<()> {
        let name = name(listener);
        let first = self.bound.sockets.len();
        match &listener.bind {
            Bind::Tcp(addr) => {
                let inherited = self.inherited(&name)?;
                let sockets = self.tcp(*addr, inherited)?;
                for (at, socket) in sockets.into_iter().enumerate() {
                    self.handle(&name, &socket, None)?;
                    self.bound.sockets.push((at % self.workers, place, socket));
                }
            }
            Bind::Unix { path, mode } => {
                let (socket, file) = match self.inherited.take_file(&name, path, *mode) {
                    Some((socket, file)) => (listening(socket)?, file),
                    None => {
                        let (socket, file) = socket_file::bind(path, *mode, BACKLOG)?;
                        (Listening::Unix(socket), file)
                    }
                };
                let id = file.id();
                self.bound.files.push((name.clone(), file));
                self.share(place, &name, &socket, Some(id))?;
            }
            Bind::Passed(own) => {
                let inherited = self.inherited(&name)?;
                let sockets = if inherited.is_empty() { self.passed.take(own)? } else { inherited };
                sockets.iter().try_for_each(|socket| self.share(place, &name, socket, None))?;
            }
        }
        if let Some((_, _, socket)) = self.bound.sockets.get(first) {
            self.bound.addresses.push((listener.name.clone(), socket.local_addr()?));
        }
        Ok(())
    }

    /// Those that nobody takes are closed, but for systemd's, which may be wanted after the next upgrade. With the names
    /// of those that were inherited.
    pub(super) fn done(self) -> (Bound, Vec<String>) {
        let Binding { inherited, mut passed, mut bound, .. } = self;
        for (name, socket) in passed.rest() {
            tracing::warn!(name, "systemd hands over a socket that no listener has: write bind = \"fd:{name}\"");
            if let Ok(handle) = owned(&socket) {
                bound.handles.push(Handle { name: format!("fd:{name}"), socket: handle, file: None });
            }
        }
        let (left, taken) = inherited.into_parts();
        bound.handles.extend(left.into_iter().filter(|left| left.name.starts_with("fd:")));
        (bound, taken)
    }

    /// One socket a worker on one address. More than that were inherited from a process with more workers: each has
    /// clients in its queue, so that some workers get several. Those that are added to inherited ones do not listen yet: the
    /// kernel would give them clients whom nobody serves if this process does not come up.
    fn tcp(&self, mut addr: SocketAddr, inherited: Vec<Listening>) -> io::Result<Vec<Listening>> {
        let mut sockets = inherited;
        match sockets.first() {
            // Port 0 was resolved long ago.
            Some(first) => addr = first.local_addr()?.tcp().unwrap_or(addr),
            None => worker::check_free(addr)?,
        }
        let taken_over = !sockets.is_empty();
        while sockets.len() < self.workers {
            let socket = worker::bind(addr)?;
            if !taken_over {
                socket.listen()?;
            }
            // The first resolves port 0 for the others.
            addr = socket.local_addr()?.tcp().unwrap_or(addr);
            sockets.push(socket);
        }
        Ok(sockets)
    }

    /// All workers accept on one socket.
    fn share(&mut self, place: usize, name: &str, socket: &Listening, file: Option<FileId>) -> io::Result<()> {
        self.handle(name, socket, file)?;
        for worker in 0..self.workers {
            self.bound.sockets.push((worker, place, socket.try_clone()?));
        }
        Ok(())
    }

    fn handle(&mut self, name: &str, socket: &Listening, file: Option<FileId>) -> io::Result<()> {
        self.bound.handles.push(Handle { name: name.to_owned(), socket: owned(socket)?, file });
        Ok(())
    }

    fn inherited(&mut self, name: &str) -> io::Result<Vec<Listening>> {
        self.inherited.take(name).into_iter().map(listening).collect()
    }
}

/// What a listener's sockets are inherited by: the address, whatever the listener is called. Any free port is only its own.
fn name(listener: &Listener) -> String {
    match &listener.bind {
        Bind::Tcp(addr) if addr.port() == 0 => format!("listener {} {addr}", listener.name),
        bind => bind.to_string(),
    }
}

fn listening(socket: OwnedFd) -> io::Result<Listening> {
    let listening = match SockRef::from(&socket).domain()? {
        Domain::UNIX => Listening::Unix(socket.into()),
        _ => Listening::Tcp(socket.into()),
    };
    listening.prepared()
}

fn owned(socket: &Listening) -> io::Result<OwnedFd> {
    Ok(match socket.try_clone()? {
        Listening::Tcp(tcp) => tcp.into(),
        Listening::Unix(unix) => unix.into(),
    })
}
