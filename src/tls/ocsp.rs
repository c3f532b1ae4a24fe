//! What an OCSP response says (RFC 6960 §4.2): whether it may be stapled to a certificate, and until when. Its signature
//! is the client's to check.

use super::der::{CONTEXT_0, Der, ENUMERATED, GENERALIZED_TIME, INTEGER, OCTET_STRING, OID, SEQUENCE};
use super::time;

/// The tags of `certStatus`: good; `0xa1` is revoked, `0x82` unknown.
const GOOD: u8 = 0x80;

/// Until when the response may be stapled to the certificate with this serial number, in seconds since 1970; otherwise
/// why not.
pub fn stapled_until(response: &[u8], serial: &[u8], now: i64) -> Result<i64, String> {
    let mut response = Der::new(response).take(SEQUENCE).ok_or("it is no OCSP response in DER form")?;
    let status = response.take(ENUMERATED).ok_or("it is no OCSP response in DER form")?;
    if status.bytes() != [0] {
        return Err("the responder gave no answer in it".to_owned());
    }
    let mut single = single_response(response, serial)?.ok_or("it is for another certificate")?;
    let malformed = || "it is malformed".to_owned();
    let (status, _) = single.any().ok_or_else(malformed)?;
    if status != GOOD {
        let what = if status & 0x1f == 1 { "the certificate is revoked" } else { "the responder does not know it" };
        return Err(format!("it says that {what}"));
    }
    time::read(&mut single).ok_or_else(malformed)?;
    // Without it newer information is always to be had (RFC 6960 §4.2.2.1): nothing to keep.
    let mut next_update = single.take(CONTEXT_0).ok_or("it does not say how long it holds")?;
    let until = time::read(&mut next_update).ok_or_else(malformed)?;
    if until <= now {
        return Err(format!("it held until {}", time::date(until)));
    }
    Ok(until)
}

/// What follows the certificate's id in the answer for it.
fn single_response<'d>(response: Der<'d>, serial: &[u8]) -> Result<Option<Der<'d>>, String> {
    let mut responses = responses(response).ok_or("it is malformed")?;
    while let Some(mut single) = responses.take(SEQUENCE) {
        let id = single.take(SEQUENCE).and_then(serial_number);
        if id.is_some_and(|id| id.bytes() == serial) {
            return Ok(Some(single));
        }
    }
    Ok(None)
}

fn responses(mut response: Der<'_>) -> Option<Der<'_>> {
    let mut bytes = response.take(CONTEXT_0)?.take(SEQUENCE)?;
    bytes.take(OID)?;
    let mut data = Der::new(bytes.take(OCTET_STRING)?.bytes()).take(SEQUENCE)?.take(SEQUENCE)?;
    data.take(CONTEXT_0);
    // The responder's id, of one of two tags, and the time of the answer.
    data.any()?;
    data.take(GENERALIZED_TIME)?;
    data.take(SEQUENCE)
}

fn serial_number(mut id: Der<'_>) -> Option<Der<'_>> {
    id.take(SEQUENCE)?;
    id.take(OCTET_STRING)?;
    id.take(OCTET_STRING)?;
    id.take(INTEGER)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut element = vec![tag, 0x82];
        element.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        element.extend(content);
        element
    }

    /// A response without signature for a serial number.
    pub fn response(serial: &[u8], status: u8, next_update: Option<&str>) -> Vec<u8> {
        let time = |text: &str| element(GENERALIZED_TIME, &[text.as_bytes()]);
        let hash = element(OCTET_STRING, &[&[1; 20]]);
        let id = element(SEQUENCE, &[&element(SEQUENCE, &[]), &hash, &hash, &element(INTEGER, &[serial])]);
        let next = next_update.map(|text| element(CONTEXT_0, &[&time(text)])).unwrap_or_default();
        let single = element(SEQUENCE, &[&id, &[status, 0], &time("20200101000000Z"), &next]);
        let responder = element(0xa2, &[&hash]);
        let data = element(SEQUENCE, &[&responder, &time("20200101000000Z"), &element(SEQUENCE, &[&single])]);
        let basic = element(OCTET_STRING, &[&element(SEQUENCE, &[&data])]);
        let kind = element(OID, &[&[0x2b, 6, 1, 5, 5, 7, 48, 1, 1]]);
        let bytes = element(CONTEXT_0, &[&element(SEQUENCE, &[&kind, &basic])]);
        element(SEQUENCE, &[&element(ENUMERATED, &[&[0]]), &bytes])
    }

    #[test]
    fn only_a_good_and_fresh_answer_for_this_certificate_is_stapled() {
        let good = response(&[7, 8], GOOD, Some("20200108000000Z"));
        let until = 1_578_441_600;
        assert_eq!(stapled_until(&good, &[7, 8], until - 1), Ok(until));
        let why = |response: &[u8], serial: &[u8], now| stapled_until(response, serial, now).unwrap_err();
        assert_eq!(why(&good, &[7, 8], until), "it held until 2020-01-08");
        assert_eq!(why(&good, &[7, 9], 0), "it is for another certificate");
        assert_eq!(why(&response(&[7], 0xa1, None), &[7], 0), "it says that the certificate is revoked");
        assert_eq!(why(&response(&[7], 0x82, None), &[7], 0), "it says that the responder does not know it");
        assert_eq!(why(&response(&[7], GOOD, None), &[7], 0), "it does not say how long it holds");
        assert_eq!(why(&[0x30, 3, 0x0a, 1, 6], &[7], 0), "the responder gave no answer in it");
        assert_eq!(why(b"-----BEGIN", &[7], 0), "it is no OCSP response in DER form");
    }

    proptest::proptest! {
        #[test]
        fn damaged_responses_are_survived(at in proptest::num::usize::ANY, byte in proptest::num::u8::ANY, cut in proptest::num::usize::ANY) {
            let mut der = response(&[7], GOOD, Some("20200108000000Z"));
            let length = der.len();
            der[at % length] = byte;
            let _ = stapled_until(&der[..length - cut % length], &[7], 0);
        }
    }
}
