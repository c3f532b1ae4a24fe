//! Clients known by an address, a token or an anonymous id, and routes that agree on them.

use crate::support::*;
use std::collections::HashSet;

/// RFC 4648 §5 without padding.
fn base64url(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut encoded = String::new();
    for group in text.as_bytes().chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        (0..=group.len()).for_each(|at| encoded.push(char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize])));
    }
    encoded
}

fn bearer(payload: &str) -> String {
    format!("Authorization: Bearer eyJhbGciOiJub25lIn0.{}.c2ln\r\n", base64url(payload))
}

/// A route `name` under `/name` with half of the clients each.
fn half(name: &str, sticky: &str) -> String {
    format!(
        "[[route]]\nname = \"{name}\"\nmatch = {{ path = \"/{name}\" }}\nvariants = {{ a = \"a\", b = \"b\" }}\n\
         weights = {{ a = 50, b = 50 }}\nsticky = {sticky}\n"
    )
}

fn start(routes: &[(&str, &str)]) -> (Weir, [Upstream; 2]) {
    let upstreams = [Upstream::named("a"), Upstream::named("b")];
    let mut site = Site::new().server("workers = 2\ntrusted_proxies = [\"127.0.0.0/8\"]");
    site = site.pool("a", &[upstreams[0].addr], "").pool("b", &[upstreams[1].addr], "");
    for (name, sticky) in routes {
        site = site.toml(&half(name, sticky));
    }
    (site.start(), upstreams)
}

#[test]
fn a_tokens_claim_is_a_key_like_a_header() {
    let (weir, _upstreams) = start(&[("shop", "{ key = [\"jwt:sub\", \"header:x-user-id\"] }")]);
    let mut client = weir.client();
    let mut seen = HashSet::new();
    for user in 10_000..10_060 {
        let by_header = client.get("/shop", &format!("X-User-Id: {user}\r\n")).text().to_owned();
        for token in [
            bearer(&format!("{{\"sub\":\"{user}\",\"exp\":1}}")),
            bearer(&format!("{{\"aud\":[\"x\"],\"sub\":{user}}}")),
            // The first source has it: the header does not count.
            bearer(&format!("{{\"sub\":\"{user}\"}}")) + "X-User-Id: other\r\n",
        ] {
            assert_eq!(client.get("/shop", &token).text(), by_header, "{user} {token}");
        }
        // What has no claim leaves the next key.
        for token in [bearer("{\"sub\":null}"), bearer("not JSON"), "Authorization: Bearer a.b\r\n".to_owned()] {
            let fields = format!("{token}X-User-Id: {user}\r\n");
            assert_eq!(client.get("/shop", &fields).text(), by_header, "{user} {token}");
        }
        seen.insert(by_header);
    }
    assert_eq!(seen.len(), 2, "60 users at 50/50");
}

#[test]
fn hostile_tokens_are_answered() {
    let (weir, _upstreams) = start(&[("shop", "{ key = [\"jwt:sub\", \"ip\"] }")]);
    let mut client = weir.client();
    for token in [
        bearer(&"[".repeat(4_000)),
        bearer(&"{\"a\":".repeat(900)),
        bearer(&format!("{{\"sub\":\"{}\"}}", "x".repeat(5_000))),
        format!("Authorization: Bearer {}\r\n", ".".repeat(8_000)),
        format!("Authorization: Bearer {}\r\n", "A".repeat(9_000)),
        "Authorization: Bearer \r\n".to_owned(),
        "Authorization: Bearer a.%%%.c\r\n".to_owned(),
    ] {
        assert_eq!(client.get("/shop", &token).status, 200, "{token}");
    }
}

#[test]
fn an_address_is_a_key() {
    let (weir, _upstreams) = start(&[
        ("shop", "{ key = [\"header:x-user-id\", \"ip\"] }"),
        ("same", "{ fallback = \"ip\", group = \"shop\" }"),
    ]);
    let mut client = weir.client();
    let mut seen = HashSet::new();
    for host in 1..60 {
        let from = format!("X-Forwarded-For: 192.0.2.{host}\r\n");
        let variant = client.get("/shop", &from).text().to_owned();
        let mapped = format!("X-Forwarded-For: ::ffff:192.0.2.{host}\r\n");
        assert_eq!(client.get("/shop", &mapped).text(), variant, "the same client over IPv6");
        assert_eq!(
            client.get("/shop", &format!("X-User-Id: 192.0.2.{host}\r\n")).text(),
            variant,
            "the text is the key"
        );
        assert_eq!(client.get("/same", &from).text(), variant, "as a fallback it is the same");
        seen.insert(variant);
    }
    assert_eq!(seen.len(), 2, "59 addresses at 50/50");
}

#[test]
fn routes_of_a_group_agree_and_others_do_not() {
    let by_user = "{ key = [\"header:x-user-id\"], group = \"checkout\" }";
    let (weir, _upstreams) =
        start(&[("cart", by_user), ("pay", by_user), ("other", "{ key = [\"header:x-user-id\"] }")]);
    let mut client = weir.client();
    let mut differ = 0;
    for user in 0..200 {
        let fields = format!("X-User-Id: {user}\r\n");
        let mut variant = |path| client.get(path, &fields).text().to_owned();
        let cart = variant("/cart");
        assert_eq!(variant("/pay"), cart, "{user}");
        differ += u32::from(variant("/other") != cart);
    }
    // A fair coin gives fewer than 60 or more than 140 of 200 once in a hundred million times.
    assert!((60..=140).contains(&differ), "{differ} of 200 differ");
}

#[test]
fn an_anonymous_id_is_one_for_a_group() {
    let anonymous = "{ fallback = \"cookie\", group = \"checkout\" }";
    let (weir, _upstreams) = start(&[("cart", anonymous), ("pay", anonymous)]);
    for _ in 0..30 {
        let first = weir.get("/cart", "");
        let cookie = first.head.field("set-cookie").expect("everybody gets an id").to_owned();
        let (pair, attributes) = cookie.split_once("; ").expect("a cookie has attributes");
        assert!(pair.starts_with("weir_checkout="), "{cookie}");
        assert_eq!(attributes, "Max-Age=86400; Path=/; HttpOnly; SameSite=Lax");
        let next = weir.get("/pay", &format!("Cookie: {pair}\r\n"));
        assert_eq!((next.text(), next.head.field("set-cookie")), (first.text(), None));
    }
}
