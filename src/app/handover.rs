//! How a process and the one that takes its place talk: messages over a pair of unix sockets, with descriptors.
//!
//! The new process finds its end as standard input, so that no descriptor's number has to be believed, and no `unsafe` is
//! needed to own what is behind it ([why so](../../docs/design/upgrade.md)).
//!
//! ```text
//! old                                   new
//!  starts it ------------------------->  reads the configuration
//!  Sockets, Sockets, … --------------->  takes them, binds the others, reads certificates, looks names up
//!  lets go of the state <-------------- Prepared
//!  Yours ----------------------------->  opens the state, starts its workers
//!  tells the service manager <--------- Serving
//!  Main, or End ---------------------->  says READY, or drains, too
//!  drains
//! ```
//!
//! `Failed`, or the end of the connection, before `Serving`: the old one goes on.

use crate::control::handover::KnownAddress;
use crate::net::inherited::{Handle, Sockets};
use crate::net::socket_file::FileId;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Tells a process that its standard input is the connection to the one whose place it takes.
pub(super) const VARIABLE: &str = "WEIR_HANDOVER";
pub(super) const STDIN: &str = "stdin";

/// How many descriptors go in one message; Linux takes up to 253.
pub(super) const SOCKETS_AT_ONCE: usize = 64;
/// How many addresses go in one message. Names are at most 253 bytes.
pub(super) const ADDRESSES_AT_ONCE: usize = 128;
const MESSAGE_BYTES: usize = 64 * 1024;
/// The longest reason that is told; more is in the log.
const REASON_BYTES: usize = 16 * 1024;
/// What a process may have said before it failed, and its end.
const LAST_WORDS: usize = 4;
/// The old process says at once that it told the service manager, or is gone.
const MAIN_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(super) enum Message {
    /// A descriptor each; and addresses of targets that are names, each name as it is written.
    Sockets {
        names: Vec<String>,
        /// Of unix sockets.
        files: Vec<Option<FileId>>,
        #[serde(default)]
        known: Vec<(String, KnownAddress)>,
        more: bool,
    },
    /// All is there but the state.
    Prepared,
    /// Nobody else writes the state now. `copy`: where it was left, if it is in memory only.
    Yours {
        copy: Option<PathBuf>,
    },
    /// Clients are served. `taken`: unix sockets whose files stay.
    Serving {
        version: String,
        taken: Vec<String>,
    },
    Failed {
        why: String,
    },
    /// The service manager knows which process is the main one.
    Main,
    /// Likewise, and both are to end.
    End,
}

/// One end of the connection.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    pub(super) fn pair() -> io::Result<(Channel, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Channel(ours), theirs))
    }

    pub(super) async fn send(&self, message: &Message, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.watched()?.async_io(Interest::WRITABLE, || self.send_now(message, sockets)).await
    }

    /// `WouldBlock` when the other side does not read.
    pub(super) fn send_now(&self, message: &Message, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_ONCE))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// `UnexpectedEof` when the other side is gone.
    pub(super) async fn receive(&self) -> io::Result<(Message, Vec<OwnedFd>)> {
        self.watched()?.async_io(Interest::READABLE, || self.receive_now()).await
    }

    /// Why the other side ended, if it said so. The end itself comes first where it left something unread.
    pub(super) fn last_words(&self) -> Option<String> {
        (0..LAST_WORDS).find_map(|_| match self.receive_now() {
            Ok((Message::Failed { why }, _)) => Some(why),
            _ => None,
        })
    }

    /// For the runtime to say when there is something to read or room to write; it does not care that it is no stream.
    fn watched(&self) -> io::Result<UnixStream> {
        UnixStream::from_std(std::os::unix::net::UnixStream::from(self.0.try_clone()?))
    }

    fn receive_now(&self) -> io::Result<(Message, Vec<OwnedFd>)> {
        let mut bytes = vec![0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_ONCE))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut room = [IoSliceMut::new(&mut bytes)];
        let received = rustix::net::recvmsg(&self.0, &mut room, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
        if received.bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other process is gone"));
        }
        let sockets = beside.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => sockets.collect(),
            _ => Vec::new(),
        });
        let sockets = sockets.collect();
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::other("a message or its descriptors did not fit"));
        }
        Ok((serde_json::from_slice(&bytes[..received.bytes])?, sockets))
    }
}

/// The process whose place this one takes.
#[derive(Clone, Debug)]
pub struct Predecessor(Arc<Channel>);

impl Predecessor {
    /// None where nobody is to be replaced; `var` looks up the environment. Standard input is `/dev/null` afterwards.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> io::Result<Option<Predecessor>> {
        if var(VARIABLE).as_deref() != Some(STDIN) {
            return Ok(None);
        }
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        Ok(Some(Predecessor(Arc::new(Channel(stdin)))))
    }

    /// This process does not come up.
    pub fn failed(&self, why: &str) {
        let why = why[..why.floor_char_boundary(REASON_BYTES)].trim().to_owned();
        // The other one may be gone; then it is nobody's concern.
        let _ = self.0.send_now(&Message::Failed { why }, &[]);
    }

    /// Its listening sockets, and the addresses of names that it knows.
    pub(super) async fn sockets(&self) -> io::Result<(Sockets, Vec<(String, KnownAddress)>)> {
        let (mut sockets, mut told) = (Vec::new(), Vec::new());
        loop {
            match self.0.receive().await? {
                (Message::Sockets { names, files, known, more }, handles)
                    if names.len() == handles.len() && names.len() == files.len() =>
                {
                    let described = names.into_iter().zip(files).zip(handles);
                    sockets.extend(described.map(|((name, file), socket)| Handle { name, socket, file }));
                    told.extend(known);
                    if !more {
                        return Ok((Sockets::new(sockets), told));
                    }
                }
                (other, _) => return Err(unexpected(&other)),
            }
        }
    }

    /// Waits until it has let go of the state; where a copy is, if there is one.
    pub(super) async fn state(&self) -> io::Result<Option<PathBuf>> {
        self.0.send(&Message::Prepared, &[]).await?;
        match self.0.receive().await? {
            (Message::Yours { copy }, _) => Ok(copy),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Clients are served here. Whoever is gone by now need not know.
    pub(super) async fn serving(&self, taken: Vec<String>) {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let taken = taken.into_iter().filter(|name| name.contains("unix:")).collect();
        if let Err(error) = self.0.send(&Message::Serving { version, taken }, &[]).await {
            tracing::warn!(%error, "the process before this one can't be told that this one serves");
        }
    }

    /// Waits until the service manager knows this process, or for a moment. Whether a signal that was meant for this one
    /// reached the other.
    pub(super) async fn main(&self) -> bool {
        matches!(tokio::time::timeout(MAIN_TIMEOUT, self.0.receive()).await, Ok(Ok((Message::End, _))))
    }
}

pub(super) fn unexpected(message: &Message) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the other process said {message:?} out of turn"))
}

/// Fault of a debug build, for tests: `hang start` in the file that `$WEIR_TRIAL_FAULT` names.
#[cfg(debug_assertions)]
pub(super) async fn hang_if_asked() {
    let asked = std::env::var("WEIR_TRIAL_FAULT").ok().and_then(|file| std::fs::read_to_string(file).ok());
    if asked.is_some_and(|asked| asked.trim() == "hang start") {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_go_over_with_their_names() {
        let (ours, theirs) = Channel::pair().unwrap();
        let listeners: Vec<_> = (0..150).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        // The longest that there are.
        let found =
            KnownAddress { addr: "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap(), weight: u32::MAX };
        let known: Vec<_> = (0..300).map(|number| (format!("{number:0>259}"), found)).collect();
        let predecessor = Predecessor(Arc::new(Channel(theirs)));
        let sending = async {
            for (at, part) in listeners.chunks(SOCKETS_AT_ONCE).enumerate() {
                let names: Vec<_> = part.iter().map(|_| format!("part {at}")).collect();
                let files = vec![None; names.len()];
                let handles: Vec<_> = part.iter().map(AsFd::as_fd).collect();
                ours.send(&Message::Sockets { names, files, known: Vec::new(), more: true }, &handles).await.unwrap();
            }
            for (at, part) in known.chunks(ADDRESSES_AT_ONCE).enumerate() {
                let (names, files, known) = (Vec::new(), Vec::new(), part.to_vec());
                ours.send(&Message::Sockets { names, files, known, more: at < 2 }, &[]).await.unwrap();
            }
        };
        let (received, ()) = tokio::join!(predecessor.sockets(), sending);
        let (mut received, told) = received.unwrap();
        assert_eq!(told, known);
        let mut found = Vec::new();
        for part in 0..3 {
            let taken = received.take(&format!("part {part}"));
            found.extend(taken.into_iter().map(|socket| std::net::TcpListener::from(socket).local_addr().unwrap()));
        }
        assert_eq!(found, ports);
        drop(ours);
        let gone = predecessor.state().await.unwrap_err();
        assert!(matches!(gone.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe), "{gone}");
    }

    #[tokio::test]
    async fn why_the_other_ended_is_heard_though_it_read_nothing() {
        let (ours, theirs) = Channel::pair().unwrap();
        let sockets = || Message::Sockets { names: Vec::new(), files: Vec::new(), known: Vec::new(), more: true };
        ours.send(&sockets(), &[]).await.unwrap();
        Predecessor(Arc::new(Channel(theirs))).failed("the file has errors\n");
        assert!(ours.send(&sockets(), &[]).await.is_err());
        assert_eq!(ours.last_words().unwrap(), "the file has errors");
        assert_eq!(ours.last_words(), None);
    }

    #[test]
    fn a_process_that_replaces_nobody_keeps_its_standard_input() {
        assert!(Predecessor::from_env(|_| None).unwrap().is_none());
    }
}
