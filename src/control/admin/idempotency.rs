//! `Idempotency-Key`: a change that is sent again with the same key is answered as it was and not done again.
//!
//! In memory: a restart forgets, which `docs/admin-api.md` says. At most [`IDEMPOTENCY_KEYS`] for
//! [`IDEMPOTENCY_AGE`]; past that the oldest goes.

use super::problem::Problem;
use crate::limits::{IDEMPOTENCY_AGE, IDEMPOTENCY_KEYS};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// The longest key, in bytes.
const KEY_BYTES: usize = 256;

#[derive(Debug, Default)]
pub struct Remembered(Mutex<HashMap<Key, Entry>>);

/// Keys belong to whoever sent them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub actor: String,
    pub key: String,
}

/// An answer as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Debug)]
struct Entry {
    /// Of method, path and body.
    request: u64,
    /// None while the change is under way.
    answer: Option<Answer>,
    at: Instant,
}

impl Remembered {
    /// Some: the answer given before. None: the caller is to do the change and then call [`Remembered::finish`].
    pub fn begin(&self, key: &Key, request: u64, now: Instant) -> Result<Option<Answer>, Problem> {
        let mut entries = self.entries();
        entries.retain(|_, entry| now.duration_since(entry.at) < IDEMPOTENCY_AGE);
        let problem = |status, slug, detail: &str| Problem::new(status, slug, detail).field("header:idempotency-key");
        if key.key.is_empty() || key.key.len() > KEY_BYTES {
            return Err(problem(400, "invalid-idempotency-key", "the key is empty or longer than 256 bytes"));
        }
        match entries.get(key) {
            Some(entry) if entry.request != request => {
                Err(problem(422, "idempotency-key-reused", "this key came with another request before"))
            }
            Some(Entry { answer: Some(answer), .. }) => Ok(Some(answer.clone())),
            Some(_) => Err(problem(409, "idempotency-key-busy", "the request with this key is still under way")),
            None => {
                if entries.len() >= IDEMPOTENCY_KEYS
                    && let Some(oldest) = entries.iter().min_by_key(|(_, entry)| entry.at).map(|(key, _)| key.clone())
                {
                    entries.remove(&oldest);
                }
                entries.insert(key.clone(), Entry { request, answer: None, at: now });
                Ok(None)
            }
        }
    }

    /// A server's failure is forgotten, so that the same key may try again.
    pub fn finish(&self, key: &Key, answer: Answer) {
        let mut entries = self.entries();
        if answer.status.is_server_error() {
            entries.remove(key);
        } else if let Some(entry) = entries.get_mut(key) {
            entry.answer = Some(answer);
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.0.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(text: &str) -> Key {
        Key { actor: "ci".to_owned(), key: text.to_owned() }
    }

    fn answer(status: u16) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"x"),
        }
    }

    #[test]
    fn an_answer_is_given_again_for_a_day_to_the_same_request_only() {
        let remembered = Remembered::default();
        let now = Instant::now();
        assert_eq!(remembered.begin(&key("a"), 1, now).unwrap(), None);
        assert!(remembered.begin(&key("a"), 1, now).is_err(), "under way");
        remembered.finish(&key("a"), answer(200));
        assert_eq!(remembered.begin(&key("a"), 1, now).unwrap(), Some(answer(200)));
        assert!(remembered.begin(&key("a"), 2, now).is_err(), "another request");
        let other = Key { actor: "ops".to_owned(), ..key("a") };
        assert_eq!(remembered.begin(&other, 2, now).unwrap(), None);
        let later = now + IDEMPOTENCY_AGE;
        assert_eq!(remembered.begin(&key("a"), 2, later).unwrap(), None);
    }

    #[test]
    fn failures_are_forgotten_and_the_number_is_bounded() {
        let remembered = Remembered::default();
        let now = Instant::now();
        assert_eq!(remembered.begin(&key("a"), 1, now).unwrap(), None);
        remembered.finish(&key("a"), answer(507));
        assert_eq!(remembered.begin(&key("a"), 1, now).unwrap(), None);
        for nth in 0..IDEMPOTENCY_KEYS as u64 {
            let at = now + Duration::from_millis(1 + nth);
            assert_eq!(remembered.begin(&key(&format!("k{nth}")), 1, at).unwrap(), None);
        }
        assert_eq!(remembered.entries().len(), IDEMPOTENCY_KEYS);
        assert!(!remembered.entries().contains_key(&key("a")));
        assert!(remembered.begin(&key(""), 1, now).is_err());
    }
}
