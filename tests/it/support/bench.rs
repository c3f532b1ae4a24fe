//! A Weir between raw bytes and a target that records: what was refused, what came through, and who was served after.

use super::{Answer, Reply, Request, Site, Upstream, Weir};

pub struct Bench {
    pub weir: Weir,
    pub upstream: Upstream,
}

impl Bench {
    /// The target answers everybody with the path that it was asked for.
    pub fn new(limits: &str) -> Bench {
        Bench::answering(limits, |request| Reply::text(&request.path))
    }
    pub fn answering(limits: &str, reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Bench {
        let upstream = Upstream::answering(reply);
        let weir = Site::new().limits(limits).to(upstream.addr, "", "").start();
        Bench { weir, upstream }
    }

    /// These bytes are answered with this status at most once, the connection is closed, and nothing reaches the target.
    #[track_caller]
    pub fn refuses(&self, bytes: impl AsRef<[u8]>, status: u16) {
        let (bytes, before) = (bytes.as_ref(), self.upstream.count());
        let mut client = self.weir.client();
        // Weir may close before it has read all of it.
        let _ = client.try_send(bytes);
        let said = String::from_utf8_lossy(&client.rest()).into_owned();
        let shown = bytes[..bytes.len().min(300)].escape_ascii();
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}\nwas answered with {said:?}");
        assert_eq!(said.matches("HTTP/1.1").count(), 1, "{shown}\nwas answered with {said:?}");
        let reached = self.upstream.requests().split_off(before);
        assert!(reached.is_empty(), "{shown}\nreached the target: {reached:?}");
        self.serves_the_next();
    }

    /// A request that breaks off in its body: the target never has all of it, and nothing after it is served.
    #[track_caller]
    pub fn cuts(&self, bytes: impl AsRef<[u8]>) {
        let (bytes, before) = (bytes.as_ref(), self.upstream.count());
        let mut client = self.weir.client();
        let _ = client.try_send(bytes);
        let said = String::from_utf8_lossy(&client.rest()).into_owned();
        let shown = bytes[..bytes.len().min(300)].escape_ascii();
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{shown}\nwas answered with {said:?}");
        let reached = self.upstream.requests().split_off(before);
        assert!(reached.is_empty(), "{shown}\nreached the target whole: {reached:?}");
        self.serves_the_next();
    }

    /// These bytes are one request, answered with 200; gives it as it reached the target.
    #[track_caller]
    pub fn passes(&self, bytes: impl AsRef<[u8]>) -> Request {
        let (bytes, before) = (bytes.as_ref(), self.upstream.count());
        let shown = bytes[..bytes.len().min(300)].escape_ascii();
        let mut client = self.weir.client();
        client.send(bytes);
        let answer = client.try_answer(bytes.starts_with(b"HEAD")).unwrap_or_else(|e| panic!("{shown}\n{e}"));
        assert_eq!(answer.status, 200, "{shown}\n{answer:?}");
        let mut reached = self.upstream.requests().split_off(before);
        assert_eq!(reached.len(), 1, "{shown}\nreached the target as {reached:?}");
        self.serves_the_next();
        reached.remove(0)
    }

    /// Somebody else, on a connection of their own, gets their own answer.
    #[track_caller]
    pub fn serves_the_next(&self) -> Answer {
        let answer = self.weir.get("/next", "");
        assert_eq!((answer.status, answer.text()), (200, "/next"));
        answer
    }
}
