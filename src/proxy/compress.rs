//! An answer's body, compressed as it passes.
//!
//! A compressor pulls the target's body like a client does, and only when the client asks it for more: back-pressure
//! stays what it is, and what is held is the encoder's memory, one piece of the target's body and one piece of output.
//! Whenever the target pauses, all that came is handed on, so that a stream stays a stream. A body that breaks off
//! breaks off here, too: an end is written only where the target's body has one.

mod encoder;

use super::exchange::Exchange;
use crate::boundary::compress::CompressShard;
use crate::limits::{COMPRESS_OUTPUT_BYTES, COMPRESS_TURN_BYTES, COMPRESSORS_PER_WORKER};
use crate::routing::compress::{Asked, Coding, edit_head};
use bytes::{Buf, Bytes};
use encoder::{EncodeError, Encoder, Goal, LEAST_OUTPUT_BYTES};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// How many compressors a worker has at work.
#[derive(Clone, Default)]
pub(super) struct Places(Rc<Cell<usize>>);

struct Place(Places);

impl Places {
    fn take(&self) -> Option<Place> {
        let taken = self.0.get();
        (taken < COMPRESSORS_PER_WORKER).then(|| {
            self.0.set(taken + 1);
            Place(self.clone())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let taken = &self.0.0;
        taken.set(taken.get() - 1);
    }
}

/// Makes an answer's head what the client is to get, for a route that compresses. Some when the answer is compressed;
/// the inner None: it has a head only. `length` of the body in bytes, where it is known.
#[inline(never)]
pub(super) fn begin(
    exchange: &Exchange,
    asked: &Asked,
    status: StatusCode,
    headers: &mut HeaderMap,
    length: Option<u64>,
) -> Option<Option<Box<Compressor>>> {
    if exchange.is_grpc() {
        return None;
    }
    let shard = exchange.compress_shard();
    edit_head(asked, status, headers, length, |coding| {
        if asked.is_head {
            return Some(None);
        }
        let compressor = Compressor::begin(&exchange.client.worker.compressors, coding);
        match (&compressor, shard) {
            (Some(_), Some(shard)) => shard.answers[coding as usize].add(1),
            (None, Some(shard)) => shard.skipped.add(1),
            (_, None) => {}
        }
        compressor.map(Some)
    })
}

pub(super) struct Compressor {
    encoder: Encoder,
    _place: Place,
    /// Of the target's body, not yet taken in.
    input: Bytes,
    output: Box<[u8]>,
    filled: usize,
    trailers: Option<HeaderMap>,
    phase: Phase,
    /// Something was taken in since the last flush.
    unflushed: bool,
    /// Taken in since the last pause, in bytes.
    worked: usize,
    /// Since they were last counted.
    taken_in: u64,
    handed_on: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Taking,
    Flushing,
    Finishing,
    Finished,
}

/// Why there is no next piece.
#[derive(Debug)]
pub(super) enum Stopped<E> {
    /// The body that is compressed broke off.
    Source(E),
    Encoder,
}

impl Compressor {
    /// None when the worker has as many as it may, or no memory.
    pub(super) fn begin(places: &Places, coding: Coding) -> Option<Box<Compressor>> {
        let place = places.take()?;
        Some(Box::new(Compressor {
            encoder: Encoder::new(coding)?,
            _place: place,
            input: Bytes::new(),
            output: vec![0; COMPRESS_OUTPUT_BYTES].into_boxed_slice(),
            filled: 0,
            trailers: None,
            phase: Phase::Taking,
            unflushed: false,
            worked: 0,
            taken_in: 0,
            handed_on: 0,
        }))
    }

    /// Nothing more comes, not even trailers.
    pub(super) fn is_finished(&self) -> bool {
        self.phase == Phase::Finished && self.filled == 0 && self.trailers.is_none()
    }

    /// The target's body has been asked for to its end.
    pub(super) fn has_all(&self) -> bool {
        matches!(self.phase, Phase::Finishing | Phase::Finished)
    }

    /// Adds what was taken in and handed on since the last time.
    pub(super) fn count(&mut self, shard: &CompressShard) {
        shard.bytes_in.add(std::mem::take(&mut self.taken_in));
        shard.bytes_out.add(std::mem::take(&mut self.handed_on));
    }

    /// The next piece, of a body whose own next one `source` gives. After [`COMPRESS_TURN_BYTES`] without a pause it
    /// makes one, so that the worker's other tasks have their turn.
    pub(super) fn poll<E>(
        &mut self,
        cx: &mut Context<'_>,
        mut source: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, Stopped<E>>>> {
        loop {
            if let Some(frame) = self.next_frame() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.phase == Phase::Finished {
                return Poll::Ready(None);
            }
            if self.phase == Phase::Taking && self.input.is_empty() {
                match source(cx) {
                    Poll::Pending if self.unflushed => self.phase = Phase::Flushing,
                    Poll::Pending => {
                        self.worked = 0;
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(Stopped::Source(error)))),
                    Poll::Ready(frame) => self.take(frame.and_then(Result::ok)),
                }
                continue;
            }
            ready!(self.poll_turn(cx));
            if self.step().is_err() {
                return Poll::Ready(Some(Err(Stopped::Encoder)));
            }
        }
    }

    fn next_frame(&mut self) -> Option<Frame<Bytes>> {
        let full = self.output.len() - self.filled < LEAST_OUTPUT_BYTES;
        if full || (self.filled > 0 && !self.unflushed && self.phase != Phase::Finishing) {
            let piece = Bytes::copy_from_slice(&self.output[..self.filled]);
            self.handed_on += self.filled as u64;
            self.filled = 0;
            return Some(Frame::data(piece));
        }
        if self.phase == Phase::Finished { self.trailers.take().map(Frame::trailers) } else { None }
    }

    /// None: the body has come to its end.
    fn take(&mut self, frame: Option<Frame<Bytes>>) {
        match frame.map(Frame::into_data) {
            Some(Ok(data)) => self.input = data,
            Some(Err(frame)) => {
                self.trailers = frame.into_trailers().ok();
                self.phase = Phase::Finishing;
            }
            None => self.phase = Phase::Finishing,
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.worked < COMPRESS_TURN_BYTES {
            return Poll::Ready(());
        }
        self.worked = 0;
        // Woken behind the runtime's next look at the sockets. A plain wake would come before it, dozens of times.
        pin!(tokio::task::yield_now()).poll(cx)
    }

    fn step(&mut self) -> Result<(), EncodeError> {
        let goal = match self.phase {
            Phase::Taking => Goal::Take,
            Phase::Flushing => Goal::Flush,
            Phase::Finishing | Phase::Finished => Goal::Finish,
        };
        let piece = self.input.len().min(COMPRESS_TURN_BYTES - self.worked);
        let step = self.encoder.step(&self.input[..piece], &mut self.output[self.filled..], goal)?;
        self.input.advance(step.read);
        self.filled += step.written;
        self.worked += step.read;
        self.taken_in += step.read as u64;
        self.unflushed |= step.read > 0;
        match self.phase {
            Phase::Flushing if step.done => {
                self.phase = Phase::Taking;
                self.unflushed = false;
            }
            Phase::Finishing if step.done => {
                self.phase = Phase::Finished;
                self.unflushed = false;
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::encoder::tests::decoded;
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What a source does when asked.
    #[derive(Clone, Debug)]
    enum Says {
        Data(Vec<u8>),
        Pause,
        Trailers,
        Break,
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    /// One answer's compressor between a scripted source and a client that asks as often as `next` is called.
    struct Line {
        compressor: Box<Compressor>,
        script: VecDeque<Says>,
        woken: Arc<Woken>,
        asked: usize,
    }

    #[derive(Debug)]
    enum Got {
        Data(Vec<u8>),
        Trailers(HeaderMap),
        Pending,
        Broken,
        End,
    }

    impl Line {
        fn new(coding: Coding, script: impl IntoIterator<Item = Says>) -> Line {
            let compressor = Compressor::begin(&Places::default(), coding).unwrap();
            Line { compressor, script: script.into_iter().collect(), woken: Arc::default(), asked: 0 }
        }

        fn next(&mut self) -> Got {
            let Line { compressor, script, woken, asked } = self;
            let waker = std::task::Waker::from(Arc::clone(woken));
            let source = |_: &mut Context<'_>| {
                *asked += 1;
                match script.pop_front() {
                    Some(Says::Data(data)) => Poll::Ready(Some(Ok(Frame::data(Bytes::from(data))))),
                    Some(Says::Trailers) => {
                        let trailers = HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())]);
                        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                    }
                    Some(Says::Break) => Poll::Ready(Some(Err("broken"))),
                    Some(Says::Pause) => Poll::Pending,
                    None => Poll::Ready(None),
                }
            };
            match compressor.poll(&mut Context::from_waker(&waker), source) {
                Poll::Pending => Got::Pending,
                Poll::Ready(None) => Got::End,
                Poll::Ready(Some(Err(_))) => Got::Broken,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Got::Data(data.to_vec()),
                    Err(frame) => Got::Trailers(frame.into_trailers().unwrap()),
                },
            }
        }

        fn totals(&self) -> (u64, u64) {
            (self.compressor.taken_in, self.compressor.handed_on)
        }

        /// All data until a pause of the source, the end or a break.
        fn until_quiet(&mut self) -> (Vec<u8>, Got) {
            let mut bytes = Vec::new();
            loop {
                let woken = self.woken.0.load(SeqCst);
                match self.next() {
                    Got::Data(data) => {
                        assert!(!data.is_empty() && data.len() <= COMPRESS_OUTPUT_BYTES);
                        bytes.extend(data);
                    }
                    Got::Pending if self.woken.0.load(SeqCst) > woken => {}
                    got => return (bytes, got),
                }
            }
        }
    }

    fn text(length: usize) -> Vec<u8> {
        (0_usize..).flat_map(|n| format!("{n} pieces\n").into_bytes()).take(length).collect()
    }

    #[test]
    fn all_that_came_is_handed_on_at_a_pause() {
        for coding in Coding::ALL {
            // A pause is asked about twice: once to learn of it, once to be woken at its end.
            let events = [Says::Data(b"data: 1\n\n".to_vec()), Says::Pause, Says::Pause];
            let events = events.into_iter().chain([Says::Data(text(5000)), Says::Pause, Says::Pause]);
            let mut line = Line::new(coding, events);
            let (mut bytes, got) = line.until_quiet();
            assert!(matches!(got, Got::Pending), "{got:?}");
            assert_eq!(decoded(coding, &bytes, false), b"data: 1\n\n");
            let (more, _) = line.until_quiet();
            bytes.extend(more);
            let expected = [&b"data: 1\n\n"[..], &text(5000)].concat();
            assert!(decoded(coding, &bytes, false) == expected, "{coding:?}");
            let (rest, got) = line.until_quiet();
            bytes.extend(rest);
            assert!(matches!(got, Got::End) && line.compressor.is_finished());
            assert!(decoded(coding, &bytes, true) == expected, "{coding:?}");
            assert_eq!(line.totals(), (expected.len() as u64, bytes.len() as u64));
        }
    }

    #[test]
    fn a_body_that_breaks_off_gets_no_end() {
        for coding in Coding::ALL {
            let script = [Says::Data(text(3000)), Says::Pause, Says::Pause, Says::Data(text(10)), Says::Break];
            let mut line = Line::new(coding, script);
            let (mut bytes, _) = line.until_quiet();
            let (more, got) = line.until_quiet();
            bytes.extend(more);
            assert!(matches!(got, Got::Broken), "{got:?}");
            assert!(!line.compressor.is_finished());
            assert!(decoded(coding, &bytes, false) == text(3000), "{coding:?}");
        }
    }

    #[test]
    fn trailers_come_after_the_end_of_the_stream() {
        for coding in Coding::ALL {
            let mut line = Line::new(coding, [Says::Data(text(3000)), Says::Trailers]);
            let (bytes, got) = line.until_quiet();
            assert!(matches!(got, Got::Trailers(trailers) if trailers.len() == 1));
            assert!(decoded(coding, &bytes, true) == text(3000));
            assert!(line.compressor.is_finished() && matches!(line.next(), Got::End));
        }
    }

    #[test]
    fn a_body_of_nothing_is_an_empty_stream() {
        for coding in Coding::ALL {
            let (bytes, got) = Line::new(coding, []).until_quiet();
            assert!(matches!(got, Got::End));
            assert_eq!(decoded(coding, &bytes, true), b"");
        }
    }

    #[test]
    fn a_long_piece_is_worked_on_in_turns() {
        let length = 10 * COMPRESS_TURN_BYTES;
        for coding in Coding::ALL {
            let mut line = Line::new(coding, [Says::Data(vec![b'a'; length])]);
            let mut turns = 0;
            loop {
                let before = line.totals().0;
                let got = line.next();
                let worked = line.totals().0 - before;
                assert!(worked <= COMPRESS_TURN_BYTES as u64, "{worked} bytes in one poll");
                match got {
                    Got::Pending => turns += 1,
                    Got::End => break,
                    _ => {}
                }
            }
            assert_eq!((turns, line.woken.0.load(SeqCst)), (10, 10), "{coding:?}: each pause is followed by a turn");
        }
    }

    #[test]
    fn sockets_are_looked_at_between_turns() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let turns = Rc::new(Cell::new(0));
            let counted = Rc::clone(&turns);
            let busy = tokio::task::spawn_local(async move {
                let mut compressor = Compressor::begin(&Places::default(), Coding::Zstd).unwrap();
                let endless = Bytes::from(vec![b'a'; 10 * COMPRESS_TURN_BYTES]);
                std::future::poll_fn(|cx| {
                    counted.set(counted.get() + 1);
                    let source = |_: &mut Context<'_>| Poll::Ready(Some(Ok::<_, ()>(Frame::data(endless.clone()))));
                    while let Poll::Ready(piece) = compressor.poll(cx, source) {
                        assert!(matches!(piece, Some(Ok(_))));
                    }
                    Poll::<()>::Pending
                })
                .await;
            });
            let (mut one, mut other) = tokio::net::UnixStream::pair().unwrap();
            while turns.get() < 100 {
                let before = turns.get();
                one.write_all(b"x").await.unwrap();
                other.read_exact(&mut [0]).await.unwrap();
                let passed = turns.get() - before;
                assert!(passed < 10, "{passed} turns before a byte that was there was seen");
                tokio::task::yield_now().await;
            }
            busy.abort();
        });
    }

    #[test]
    fn no_more_is_asked_of_the_target_than_the_client_takes() {
        // Noise does not get shorter: a client that takes one piece lets little more than one in.
        let noise = |seed: u64| {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            };
            (0..1000).map(|_| next()).collect::<Vec<u8>>()
        };
        for coding in Coding::ALL {
            let mut line = Line::new(coding, (1..2000).map(|seed| Says::Data(noise(seed))));
            let mut taken = 0;
            while taken < 200_000 {
                if let Got::Data(data) = line.next() {
                    taken += data.len();
                }
            }
            let ahead = line.asked * 1000 - taken;
            assert!(ahead < 400_000, "{coding:?}: {ahead} bytes are held");
        }
    }

    #[test]
    fn a_worker_has_so_many_and_no_more() {
        let places = Places::default();
        let mut all: Vec<_> = (0..COMPRESSORS_PER_WORKER).map(|_| places.take()).collect();
        assert!(all.iter().all(Option::is_some));
        assert!(Compressor::begin(&places, Coding::Gzip).is_none());
        all.pop();
        let one = Compressor::begin(&places, Coding::Gzip);
        assert!(one.is_some() && places.take().is_none());
        drop(one);
        assert!(places.take().is_some());
    }

    fn says() -> impl Strategy<Value = Says> {
        prop_oneof![
            3 => (0_usize..70_000).prop_map(|length| Says::Data(text(length))),
            1 => Just(Says::Pause),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_source_decodes_to_what_it_said(
            coding in prop::sample::select(Coding::ALL.to_vec()),
            script in prop::collection::vec(says(), 0..8),
        ) {
            let mut plain = Vec::new();
            let mut line = Line::new(coding, script.clone());
            let mut bytes = Vec::new();
            for says in &script {
                if let Says::Data(data) = says {
                    plain.extend_from_slice(data);
                }
            }
            loop {
                let (more, got) = line.until_quiet();
                bytes.extend(more);
                if matches!(got, Got::End) {
                    break;
                }
                prop_assert!(matches!(got, Got::Pending));
            }
            prop_assert!(decoded(coding, &bytes, true) == plain);
        }
    }
}
