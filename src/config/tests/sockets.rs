//! Unix sockets, sockets of systemd's, and the PROXY protocol on either side.

use super::*;
use crate::net::proxy_protocol::{Accepts, Version};

fn listener(lines: &str) -> String {
    format!("{BASE}[[listener]]\nname = \"x\"\n{lines}\n{}", route("active = \"stable\""))
}

fn bound(folder: &Folder, lines: &str) -> Listener {
    let loaded = folder.check(listener(lines));
    loaded.config.unwrap_or_else(|| panic!("{lines}: {}", loaded.report.render(false))).listeners.remove(1)
}

#[test]
fn a_listener_is_a_socket_file_or_one_of_systemds() {
    let folder = Folder::new();
    let path = folder.0.path().join("run/web.sock");
    let unix = |mode| Bind::Unix { path: path.clone(), mode };
    assert_eq!(bound(&folder, "bind = \"unix:run/web.sock\"").bind, unix(0o660));
    assert_eq!(bound(&folder, "bind = \"unix:run/web.sock\"\nmode = \"0666\"").bind, unix(0o666));
    assert_eq!(bound(&folder, "bind = \"unix:run/web.sock\"\nmode = \"600\"").bind, unix(0o600));
    assert_eq!(bound(&folder, "bind = \"fd:weir.socket\"").bind, Bind::Passed("weir.socket".to_owned()));
    let both = bound(&folder, "bind = \"[::]:81\"").bind;
    assert_eq!((both.clone(), both.to_string()), (Bind::Tcp("[::]:81".parse().unwrap()), "[::]:81".to_owned()));
    assert_eq!(unix(0).to_string(), format!("unix:{}", path.display()));
}

#[test]
fn who_speaks_for_others_is_said_and_trusted() {
    let folder = Folder::new();
    let trusting = |word: &str| {
        let text = listener(&format!("bind = \"127.0.0.1:81\"\nproxy_protocol = \"{word}\""));
        text.replace("state_dir", "trusted_proxies = [\"127.0.0.1\"]\nstate_dir")
    };
    for (word, accepts) in
        [("off", None), ("v1", Some(Accepts::V1)), ("v2", Some(Accepts::V2)), ("any", Some(Accepts::Any))]
    {
        let config = folder.check(trusting(word)).config.unwrap();
        assert_eq!((config.listeners[0].proxy_protocol, config.listeners[1].proxy_protocol), (None, accepts));
    }
    assert_eq!(errors(&folder.check(trusting("v3"))), ["bad-value 14:18 \"v3\""]);
}

#[test]
fn a_pool_is_sent_who_the_client_is() {
    for (word, version) in [("off", None), ("v1", Some(Version::V1)), ("v2", Some(Version::V2))] {
        let text = format!(
            "{BASE}send_proxy = \"{word}\"\n[pool.c]\ntargets = [\"unix:run/app.sock\", \"unix:/run/b.sock\"]\n{}",
            route("active = \"stable\"")
        );
        let folder = Folder::new();
        let config = folder.check(text).config.unwrap();
        assert_eq!((config.pools[0].send_proxy, config.pools[1].send_proxy), (None, version));
        let path = folder.0.path().join("run/app.sock");
        assert_eq!(config.pools[2].targets, [TargetAddr::Unix(path), TargetAddr::Unix("/run/b.sock".into())]);
    }
}

#[test]
fn a_trusted_network_of_mapped_addresses_is_one_of_ipv4() {
    let text = listener("bind = \"[::]:81\"")
        .replace("state_dir", "trusted_proxies = [\"::ffff:10.0.0.0/104\", \"::ffff:192.0.2.7\"]\nstate_dir");
    let trusted = Folder::new().check(text).config.unwrap().server.trusted_proxies;
    assert_eq!(trusted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "192.0.2.7/32"]);
}

#[test]
fn what_is_wrong_with_a_socket_is_said() {
    let long = format!("unix:/{}", "x".repeat(107));
    let head = "[[listener]]\nname = \"x\"\nbind = ";
    for (lines, expected, message) in [
        (format!("{head}\"unix:\""), "bad-address 3:8 \"unix:\"".to_owned(), "\"unix:\" names no path".to_owned()),
        (
            format!("{head}\"{long}\""),
            format!("bad-address 3:8 \"{long}\""),
            "a unix socket's path is at most 107 bytes without NUL, not 108".to_owned(),
        ),
        (
            format!("{head}\"fd:a b\""),
            "bad-address 3:8 \"fd:a b\"".to_owned(),
            "\"fd:a b\" names no socket that systemd can hand over".to_owned(),
        ),
        (
            format!("{head}\"unix:/x\"\nmode = \"0999\""),
            "bad-value 4:8 \"0999\"".to_owned(),
            "\"0999\" is not a file's mode".to_owned(),
        ),
        (
            format!("{head}\"unix:/x\"\nmode = \"1777\""),
            "bad-value 4:8 \"1777\"".to_owned(),
            "\"1777\" is not a file's mode".to_owned(),
        ),
        (
            format!("{head}\"127.0.0.1:81\"\nmode = \"0666\""),
            "bad-value 4:8 \"0666\"".to_owned(),
            "`mode` is of a unix socket's file".to_owned(),
        ),
        (
            format!("{head}\"127.0.0.1:81\"\nproxy_protocol = \"any\""),
            "no-trusted-proxy 4:18 \"any\"".to_owned(),
            "the PROXY protocol is taken from trusted proxies only, and there is none".to_owned(),
        ),
        (
            format!("{head}\"unix:/x\"\n[[listener]]\nname = \"y\"\nbind = \"unix:/x\""),
            "port-taken 6:8 \"unix:/x\"".to_owned(),
            "\"unix:/x\" is listed twice".to_owned(),
        ),
        (
            format!("{head}\"fd:x\"\n[[listener]]\nname = \"y\"\nbind = \"fd:x\""),
            "port-taken 6:8 \"fd:x\"".to_owned(),
            "\"fd:x\" is listed twice".to_owned(),
        ),
        (
            "[pool.c]\ntargets = [\"unix:\"]".to_owned(),
            "bad-address 2:12 \"unix:\"".to_owned(),
            "\"unix:\" names no path".to_owned(),
        ),
        (
            "[pool.c]\ntargets = [\"x:1\"]\nsend_proxy = \"any\"".to_owned(),
            "bad-value 3:14 \"any\"".to_owned(),
            "`pool.c.send_proxy` is \"any\", expected \"off\", \"v1\" or \"v2\"".to_owned(),
        ),
        (
            "[pool.c]\ntargets = [\"unix:/x\"]\ntls = { verify = false }".to_owned(),
            "bad-value 3:7 { verify = false }".to_owned(),
            "no certificate can be for unix:/x, a target of pool.c".to_owned(),
        ),
    ] {
        let loaded = check(format!("{BASE}{lines}\n{}", route("active = \"stable\"")));
        let found: Vec<_> = loaded.report.errors().collect();
        let mut first = found[0].clone();
        first.line -= BASE_LINES;
        assert_eq!((found.len(), short_one(&first), &first.message), (1, expected, &message), "{lines}");
    }
}
