//! Targets that record what reached them and answer as told: a thread a connection, blocking sockets, no HTTP library
//! that would mend what Weir sent.

use super::wire::{Head, Wire};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};

/// A request as it reached the target.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Which request of that connection it is, from 0.
    pub turn: usize,
}

/// What a target does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// These bytes, then the connection is kept.
    Bytes(Vec<u8>),
    /// These bytes, then the connection is closed.
    Last(Vec<u8>),
    /// These bytes, then the connection is reset.
    Reset(Vec<u8>),
}

impl Reply {
    pub fn text(body: &str) -> Reply {
        Reply::status(200, "", body)
    }
    /// With these further header lines, each with its CRLF.
    pub fn status(status: u16, fields: &str, body: &str) -> Reply {
        let length = body.len();
        Reply::Bytes(format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{fields}\r\n{body}").into_bytes())
    }
    pub fn raw(bytes: &str) -> Reply {
        Reply::Bytes(bytes.as_bytes().to_vec())
    }
    pub fn last(bytes: &str) -> Reply {
        Reply::Last(bytes.as_bytes().to_vec())
    }
}

/// A target on a port of its own, until it is dropped.
pub struct Upstream {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    resumed: AtomicUsize,
    stopped: AtomicBool,
}

impl Upstream {
    /// Answers every request with 200 and this body.
    pub fn named(body: &'static str) -> Upstream {
        Upstream::answering(move |_| Reply::text(body))
    }
    /// Reads each request whole, records it and does what `reply` says.
    pub fn answering(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Upstream {
        Upstream::with(move |stream, shared| answer(Wire::new(stream), &reply, shared))
    }
    /// As [`Upstream::named`], at this address.
    pub fn named_at(addr: SocketAddr, body: &'static str) -> Upstream {
        let listener = TcpListener::bind(addr).expect("the address is free");
        Upstream::on(listener, move |stream, shared| {
            answer(Wire::new(stream), &|_: &Request| Reply::text(body), shared)
        })
    }
    /// As [`Upstream::answering`], after a TLS handshake.
    pub fn over_tls(
        config: Arc<rustls::ServerConfig>,
        reply: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Upstream {
        Upstream::over_tls_after(0, config, reply)
    }
    /// As [`Upstream::over_tls`], where each connection begins with so many bytes that are no TLS.
    pub fn over_tls_after(
        first: usize,
        config: Arc<rustls::ServerConfig>,
        reply: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Upstream {
        Upstream::with(move |mut stream, shared| {
            if std::io::Read::read_exact(&mut stream, &mut vec![0; first]).is_err() {
                return;
            }
            let Some((wire, resumed)) = super::tls::accepted(&config, stream) else { return };
            shared.resumed.fetch_add(usize::from(resumed), SeqCst);
            answer(wire, &reply, shared);
        })
    }
    /// Hands every connection to `serve`, which sees and sends bytes as it likes.
    pub fn raw(serve: impl Fn(Wire) + Send + Sync + 'static) -> Upstream {
        Upstream::with(move |stream, _| serve(Wire::new(stream)))
    }
    /// As [`Upstream::raw`], at this address.
    pub fn raw_at(addr: SocketAddr, serve: impl Fn(Wire) + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind(addr).expect("the address is free");
        Upstream::on(listener, move |stream, _| serve(Wire::new(stream)))
    }
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("no test thread panicked").clone()
    }
    /// The only request; panics when there were none or several.
    #[track_caller]
    pub fn request(&self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }
    pub fn count(&self) -> usize {
        self.shared.requests.lock().expect("no test thread panicked").len()
    }
    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }
    /// Connections that are served at this moment.
    pub fn open(&self) -> usize {
        self.shared.open.load(SeqCst)
    }

    /// TLS sessions that were resumed.
    pub fn resumed(&self) -> usize {
        self.shared.resumed.load(SeqCst)
    }

    fn with(serve: impl Fn(TcpStream, &Shared) + Send + Sync + 'static) -> Upstream {
        Upstream::on(TcpListener::bind("127.0.0.1:0").expect("loopback has a free port"), serve)
    }
    fn on(listener: TcpListener, serve: impl Fn(TcpStream, &Shared) + Send + Sync + 'static) -> Upstream {
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let (accepting, serve) = (Arc::clone(&shared), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.stopped.load(SeqCst) {
                    return;
                }
                accepting.connections.fetch_add(1, SeqCst);
                let (shared, serve) = (Arc::clone(&accepting), Arc::clone(&serve));
                shared.open.fetch_add(1, SeqCst);
                std::thread::spawn(move || {
                    serve(stream, &shared);
                    shared.open.fetch_sub(1, SeqCst);
                });
            }
        });
        Upstream { addr, shared }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        // Wakes the accepting thread; when that fails it is gone already.
        let _ = std::net::TcpStream::connect(self.addr);
    }
}

/// Reads each request whole, records it and does what `reply` says.
fn answer(mut wire: Wire, reply: &impl Fn(&Request) -> Reply, shared: &Shared) {
    for turn in 0.. {
        let Ok(Some(head)) = wire.head() else { return };
        let Ok((body, trailers)) = wire.body(&head, false) else { return };
        let request = request_of(head, body, trailers, turn);
        shared.requests.lock().expect("no test thread panicked").push(request.clone());
        match reply(&request) {
            Reply::Bytes(bytes) if wire.try_send(&bytes).is_ok() => {}
            Reply::Bytes(_) => return,
            // An upstream that closes has no interest in how its last bytes fared.
            Reply::Last(bytes) => return drop(wire.try_send(bytes)),
            Reply::Reset(bytes) => {
                let _ = wire.try_send(bytes);
                return wire.reset();
            }
        }
    }
}

fn request_of(head: Head, body: Vec<u8>, trailers: Vec<(String, String)>, turn: usize) -> Request {
    let mut words = head.start.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    Request { method, path, head, body, trailers, turn }
}

/// A loopback address where nobody listens.
pub fn refused_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address")
}

/// Holds threads until it is opened; clones are one gate.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().expect("no test thread panicked") = true;
        self.0.1.notify_all();
    }
    pub fn pass(&self) {
        let closed = self.0.0.lock().expect("no test thread panicked");
        drop(self.0.1.wait_timeout_while(closed, super::PATIENCE, |open| !*open).expect("no test thread panicked"));
    }
}
