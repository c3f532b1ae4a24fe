//! The three compressors behind one push interface: bytes in, bytes out, no more work a call than the caller gives it
//! bytes for, no memory that grows with the answer.
//!
//! What each keeps, in bytes, is set here by window, level and block; docs/compression.md has the sums.

use crate::routing::compress::Coding;
use brotli::enc::StandardAlloc;
use brotli::enc::encode::{BrotliEncoderOperation, BrotliEncoderParameter, BrotliEncoderStateStruct};
use flate2::{Compress, Compression, FlushCompress, Status};
use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

/// As Caddy has it; 6 made text half a percent shorter.
const GZIP_LEVEL: u32 = 5;
/// The whole 32 KiB that the format has.
const GZIP_WINDOW_BITS: u8 = 15;
/// At 5 the same window took more memory, and text got no shorter.
const BROTLI_QUALITY: u32 = 4;
const BROTLI_WINDOW_BITS: u32 = 18;
/// A block is ended at the latest after these bytes: what brotli holds for one grows with it.
const BROTLI_BLOCK_BYTES: usize = 32 * 1024;
const ZSTD_LEVEL: i32 = 3;
/// Far below the 8 MiB that every decoder takes (RFC 9659).
const ZSTD_WINDOW_BITS: u32 = 18;
/// Half of what the level has, for a window of an eighth.
const ZSTD_TABLE_BITS: (u32, u32) = (16, 15);
/// Less room than this makes a gzip flush repeat its mark.
pub(super) const LEAST_OUTPUT_BYTES: usize = 64;

/// What a call is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// The input is taken in.
    Take,
    /// All that was taken in is out, so that a decoder can give it all.
    Flush,
    /// The stream is complete.
    Finish,
}

/// What a call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) read: usize,
    pub(super) written: usize,
    /// The goal is reached. Until then the same goal is asked for again, with the rest of the input.
    pub(super) done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the compressor failed")]
pub(super) struct EncodeError;

pub(super) enum Encoder {
    Gzip(Compress),
    Brotli(Box<Brotli>),
    Zstd(CCtx<'static>),
}

impl Encoder {
    /// None: no memory.
    pub(super) fn new(coding: Coding) -> Option<Encoder> {
        Some(match coding {
            Coding::Gzip => Encoder::Gzip(Compress::new_gzip(Compression::new(GZIP_LEVEL), GZIP_WINDOW_BITS)),
            Coding::Brotli => Encoder::Brotli(Box::new(Brotli::new())),
            Coding::Zstd => Encoder::Zstd(zstd()?),
        })
    }

    /// `output` has room for [`LEAST_OUTPUT_BYTES`]. After [`Goal::Finish`] is reached nothing may follow.
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8], goal: Goal) -> Result<Step, EncodeError> {
        debug_assert!(output.len() >= LEAST_OUTPUT_BYTES);
        match self {
            Encoder::Gzip(deflate) => gzip_step(deflate, input, output, goal),
            Encoder::Brotli(brotli) => brotli.step(input, output, goal),
            Encoder::Zstd(context) => zstd_step(context, input, output, goal),
        }
    }
}

fn gzip_step(deflate: &mut Compress, input: &[u8], output: &mut [u8], goal: Goal) -> Result<Step, EncodeError> {
    let (read, written) = (deflate.total_in(), deflate.total_out());
    let flush = match goal {
        Goal::Take => FlushCompress::None,
        Goal::Flush => FlushCompress::Sync,
        Goal::Finish => FlushCompress::Finish,
    };
    let status = deflate.compress(input, output, flush).map_err(|_| EncodeError)?;
    let since = |total: u64, before: u64| usize::try_from(total - before).unwrap_or(usize::MAX);
    let (read, written) = (since(deflate.total_in(), read), since(deflate.total_out(), written));
    let done = match goal {
        Goal::Take => read == input.len(),
        // Room that was left says that nothing waits for room.
        Goal::Flush => read == input.len() && written < output.len(),
        Goal::Finish => status == Status::StreamEnd,
    };
    Ok(Step { read, written, done })
}

pub(super) struct Brotli {
    state: BrotliEncoderStateStruct<StandardAlloc>,
    /// Taken in since the last flush, in bytes.
    block: usize,
}

impl Brotli {
    fn new() -> Brotli {
        let mut state = BrotliEncoderStateStruct::new(StandardAlloc::default());
        state.set_parameter(BrotliEncoderParameter::BROTLI_PARAM_QUALITY, BROTLI_QUALITY);
        state.set_parameter(BrotliEncoderParameter::BROTLI_PARAM_LGWIN, BROTLI_WINDOW_BITS);
        Brotli { state, block: 0 }
    }

    fn step(&mut self, input: &[u8], output: &mut [u8], goal: Goal) -> Result<Step, EncodeError> {
        let room = BROTLI_BLOCK_BYTES - self.block;
        let piece = &input[..input.len().min(room)];
        let is_last = piece.len() == input.len();
        // A full block stays one until it is flushed, over several calls if the output is short.
        let flushes = piece.len() == room || (goal == Goal::Flush && is_last);
        let operation = match goal {
            _ if flushes => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
            Goal::Finish => BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
            Goal::Take | Goal::Flush => BrotliEncoderOperation::BROTLI_OPERATION_PROCESS,
        };
        let (mut left, mut read) = (piece.len(), 0);
        let (mut free, mut written) = (output.len(), 0);
        let fine = self.state.compress_stream(
            operation,
            &mut left,
            piece,
            &mut read,
            &mut free,
            output,
            &mut written,
            &mut None,
            &mut |_, _, _, _| (),
        );
        if !fine {
            return Err(EncodeError);
        }
        self.block += read;
        let flushed = flushes && left == 0 && !self.state.has_more_output();
        if flushed {
            self.block = 0;
        }
        let taken = is_last && left == 0;
        let done = match goal {
            Goal::Take => taken && (!flushes || flushed),
            Goal::Flush => taken && flushed,
            Goal::Finish => self.state.is_finished(),
        };
        Ok(Step { read, written, done })
    }
}

fn zstd() -> Option<CCtx<'static>> {
    let mut context = CCtx::try_create()?;
    let (hash_bits, chain_bits) = ZSTD_TABLE_BITS;
    let parameters = [
        CParameter::CompressionLevel(ZSTD_LEVEL),
        CParameter::WindowLog(ZSTD_WINDOW_BITS),
        CParameter::HashLog(hash_bits),
        CParameter::ChainLog(chain_bits),
    ];
    for parameter in parameters {
        context.set_parameter(parameter).ok()?;
    }
    Some(context)
}

fn zstd_step(context: &mut CCtx<'static>, input: &[u8], output: &mut [u8], goal: Goal) -> Result<Step, EncodeError> {
    let directive = match goal {
        Goal::Take => ZSTD_EndDirective::ZSTD_e_continue,
        Goal::Flush => ZSTD_EndDirective::ZSTD_e_flush,
        Goal::Finish => ZSTD_EndDirective::ZSTD_e_end,
    };
    let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(output));
    let left = context.compress_stream2(&mut to, &mut from, directive).map_err(|_| EncodeError)?;
    let (read, written) = (from.pos(), to.pos());
    let taken = read == input.len();
    Ok(Step { read, written, done: taken && (goal == Goal::Take || left == 0) })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    /// What these bytes, the beginning of a stream or all of it, decode to. `whole`: the stream must end with them.
    pub(in crate::proxy) fn decoded(coding: Coding, bytes: &[u8], whole: bool) -> Vec<u8> {
        let mut plain = Vec::new();
        let result = match coding {
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain),
            Coding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain),
            Coding::Zstd => return zstd_decoded(bytes, whole),
        };
        assert_eq!(result.is_ok(), whole, "{coding:?}: {result:?}");
        plain
    }

    fn zstd_decoded(bytes: &[u8], whole: bool) -> Vec<u8> {
        let mut context = zstd_safe::DCtx::create();
        let (mut from, mut plain) = (InBuffer::around(bytes), Vec::new());
        loop {
            let mut part = [0; 4096];
            let mut to = OutBuffer::around(&mut part[..]);
            let left = context.decompress_stream(&mut to, &mut from).expect("valid zstd");
            plain.extend_from_slice(to.as_slice());
            if left == 0 || (from.pos() == bytes.len() && to.as_slice().len() < 4096) {
                assert_eq!((left == 0, from.pos()), (whole, bytes.len()));
                return plain;
            }
        }
    }

    /// Compresses as told; output is taken in pieces of `room`.
    fn run(encoder: &mut Encoder, mut input: &[u8], room: usize, goal: Goal, out: &mut Vec<u8>) {
        let mut output = vec![0; room];
        for _ in 0..1_000_000 {
            let step = encoder.step(input, &mut output, goal).unwrap();
            input = &input[step.read..];
            out.extend_from_slice(&output[..step.written]);
            if step.done {
                assert!(input.is_empty());
                return;
            }
            assert!(step.read > 0 || step.written > 0 || goal == Goal::Finish, "no progress");
        }
        panic!("no end");
    }

    fn text(length: usize) -> Vec<u8> {
        (0_usize..).flat_map(|n| format!("{} line {n}\n", n * n % 977).into_bytes()).take(length).collect()
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn what_was_compressed_comes_back() {
        for coding in Coding::ALL {
            for plain in [Vec::new(), b"a".to_vec(), text(1_000_000), noise(300_000)] {
                let (mut encoder, mut out) = (Encoder::new(coding).unwrap(), Vec::new());
                run(&mut encoder, &plain, 16 * 1024, Goal::Take, &mut out);
                run(&mut encoder, &[], 16 * 1024, Goal::Finish, &mut out);
                assert!(decoded(coding, &out, true) == plain, "{coding:?} {}", plain.len());
                assert!(out.len() < plain.len() + plain.len() / 100 + 100, "{coding:?}: {} bytes", out.len());
            }
        }
    }

    #[test]
    fn text_gets_much_shorter() {
        let plain = text(1_000_000);
        for coding in Coding::ALL {
            let (mut encoder, mut out) = (Encoder::new(coding).unwrap(), Vec::new());
            run(&mut encoder, &plain, 16 * 1024, Goal::Finish, &mut out);
            assert!(out.len() * 3 < plain.len(), "{coding:?}: {} bytes", out.len());
        }
    }

    #[test]
    fn after_a_flush_all_is_there() {
        for coding in Coding::ALL {
            let (mut encoder, mut out, mut plain) = (Encoder::new(coding).unwrap(), Vec::new(), Vec::new());
            for length in [1, 10, 100, 40_000, 7] {
                let piece = text(length);
                plain.extend_from_slice(&piece);
                run(&mut encoder, &piece, 512, Goal::Flush, &mut out);
                assert!(decoded(coding, &out, false) == plain, "{coding:?} after {length}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// However the bytes come, whatever room there is, wherever it is flushed.
        #[test]
        fn any_chunking_decodes_to_the_same(
            coding in prop::sample::select(Coding::ALL.to_vec()),
            pieces in prop::collection::vec((0_usize..40_000, any::<bool>(), any::<bool>()), 0..4),
            room in prop::sample::select(vec![LEAST_OUTPUT_BYTES, 65, 100, 1000, 16 * 1024]),
        ) {
            let (mut encoder, mut out, mut plain) = (Encoder::new(coding).unwrap(), Vec::new(), Vec::new());
            for (length, random, flush) in pieces {
                let piece = if random { noise(length) } else { text(length) };
                let goal = if flush { Goal::Flush } else { Goal::Take };
                run(&mut encoder, &piece, room, goal, &mut out);
                plain.extend_from_slice(&piece);
                if flush && !plain.is_empty() {
                    prop_assert!(decoded(coding, &out, false) == plain);
                }
            }
            run(&mut encoder, &[], room, Goal::Finish, &mut out);
            prop_assert!(decoded(coding, &out, true) == plain);
        }
    }
}
