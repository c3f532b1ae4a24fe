//! A DNS server that answers as it is told (RFC 1035 §4), over UDP.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// Until it is dropped.
pub struct Dns {
    pub addr: SocketAddr,
    zone: Arc<Zone>,
}

#[derive(Default)]
struct Zone {
    records: Mutex<HashMap<String, Vec<Record>>>,
    silent: AtomicBool,
    stopped: AtomicBool,
    asked: AtomicUsize,
}

/// Its type and its data.
type Record = (u16, Vec<u8>);

/// One record of a service: priority, weight, port and host.
pub type Service<'s> = (u16, u16, u16, &'s str);

impl Dns {
    /// One that knows no name.
    pub fn new() -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        let addr = socket.local_addr().expect("a bound socket has an address");
        let zone = Arc::new(Zone::default());
        let known = Arc::clone(&zone);
        std::thread::spawn(move || {
            let mut question = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                if known.stopped.load(SeqCst) {
                    return;
                }
                known.asked.fetch_add(1, SeqCst);
                if !known.silent.load(SeqCst)
                    && let Some(answer) = known.answer(&question[..length])
                {
                    // Who asked may be gone.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Dns { addr, zone }
    }
    /// A host's addresses, instead of those that it had; each answer holds for a second.
    pub fn host(&self, name: &str, v4: &[Ipv4Addr], v6: &[Ipv6Addr]) {
        let v4 = v4.iter().map(|ip| (A, ip.octets().to_vec()));
        let v6 = v6.iter().map(|ip| (AAAA, ip.octets().to_vec()));
        self.set(name, v4.chain(v6).collect());
    }
    pub fn service(&self, name: &str, records: &[Service<'_>]) {
        let record = |(priority, weight, port, host): &Service<'_>| {
            let mut data: Vec<u8> = [priority, weight, port].iter().flat_map(|number| number.to_be_bytes()).collect();
            for label in host.split('.').filter(|label| !label.is_empty()) {
                data.push(u8::try_from(label.len()).expect("a label has at most 63 bytes"));
                data.extend_from_slice(label.as_bytes());
            }
            data.push(0);
            (SRV, data)
        };
        self.set(name, records.iter().map(record).collect());
    }
    pub fn forget(&self, name: &str) {
        self.zone.records.lock().expect("no test thread panicked").remove(name);
    }
    /// From now on nobody gets an answer, or everybody again.
    pub fn silent(&self, silent: bool) {
        self.zone.silent.store(silent, SeqCst);
    }
    pub fn asked(&self) -> usize {
        self.zone.asked.load(SeqCst)
    }
    /// The line of the configuration that has names looked up here.
    pub fn config(&self) -> String {
        format!("[dns]\nservers = [\"{}\"]\nmin_ttl = \"100ms\"\nmax_ttl = \"1s\"\ntimeout = \"1s\"\n", self.addr)
    }
    fn set(&self, name: &str, records: Vec<Record>) {
        self.zone.records.lock().expect("no test thread panicked").insert(name.to_owned(), records);
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.zone.stopped.store(true, SeqCst);
        // The thread looks when something comes.
        if let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
            let _ = socket.send_to(&[0], self.addr);
        }
    }
}

impl Zone {
    /// To a message with one question. None: it is none.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let (mut at, mut labels) = (12, Vec::new());
        while *question.get(at)? > 0 {
            let end = at + 1 + usize::from(question[at]);
            labels.push(String::from_utf8_lossy(question.get(at + 1..end)?).to_ascii_lowercase());
            at = end;
        }
        let kind = u16::from_be_bytes([*question.get(at + 1)?, *question.get(at + 2)?]);
        let asked = question.get(12..at + 5)?;
        let records = self.records.lock().expect("no test thread panicked");
        let known = records.get(&labels.join("."));
        let of_kind: Vec<_> = known.into_iter().flatten().filter(|(of, _)| *of == kind).collect();
        let no_such_name = if known.is_none() { 3 } else { 0 };
        let count = u8::try_from(of_kind.len()).expect("few records");
        let mut answer = question[..2].to_vec();
        // A response, recursion asked for and there; one question, so many answers.
        answer.extend_from_slice(&[0x81, 0x80 | no_such_name, 0, 1, 0, count, 0, 0, 0, 0]);
        answer.extend_from_slice(asked);
        for (kind, data) in of_kind {
            // The name is the question's, at byte 12; class IN, a TTL of a second.
            answer.extend_from_slice(&[0xc0, 12]);
            answer.extend_from_slice(&kind.to_be_bytes());
            answer.extend_from_slice(&[0, 1, 0, 0, 0, 1]);
            answer.extend_from_slice(&u16::try_from(data.len()).expect("a short record").to_be_bytes());
            answer.extend_from_slice(data);
        }
        Some(answer)
    }
}
