//! Certificates, authorities and names: what a check says of files that can't be served, and of those that soon can't.

use super::*;
use crate::tls::certificate::tests::pem;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use std::time::SystemTime;

/// A folder with a good pair `a`, another key `b.key`, and a file that is none.
fn folder() -> Folder {
    let folder = Folder::new();
    let (cert, key) = pem(&["a.example"], &PKCS_ECDSA_P256_SHA256);
    folder.write("tls/a.crt", cert);
    folder.write("tls/a.key", key);
    folder.write("tls/b.key", pem(&["b.example"], &PKCS_RSA_SHA256).1);
    folder.write("tls/broken", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
    folder
}

/// A folder with what `config/tls.toml` names.
pub fn files_of_the_example() -> Folder {
    let folder = Folder::new();
    for (name, algorithm) in
        [("shop", &PKCS_ECDSA_P256_SHA256), ("shop-rsa", &PKCS_RSA_SHA256), ("weir", &PKCS_RSA_SHA256)]
    {
        let (cert, key) = pem(&["localhost"], algorithm);
        folder.write(&format!("tls/{name}.crt"), cert);
        folder.write(&format!("tls/{name}.key"), key);
    }
    for name in ["clients-ca", "api-ca"] {
        folder.write(&format!("tls/{name}.pem"), pem(&["ca"], &PKCS_ECDSA_P256_SHA256).0);
    }
    folder
}

fn listener(lines: &str) -> String {
    BASE.replace("[pool.a]", &format!("[listener.tls]\n{lines}\n[pool.a]")) + &route("active = \"stable\"")
}

fn pool(tls: &str) -> String {
    format!("{BASE}tls = {tls}\n{}", route("active = \"stable\""))
}

/// Code, line, column, text and message of each finding, without the folder's name.
fn findings(folder: &Folder, text: &str) -> Vec<String> {
    let report = folder.check(text).report;
    let place = folder.0.path().display().to_string() + "/";
    let one = |one: &Diagnostic| format!("{}: {}", short_one(one), one.message.replace(&place, ""));
    report.diagnostics.iter().map(one).collect()
}

#[test]
fn a_listener_becomes_what_it_says() {
    let folder = folder();
    folder.write("tls/ca.pem", pem(&["ca"], &PKCS_ECDSA_P256_SHA256).0);
    let text = listener(
        "certs = [{ cert = \"tls/a.crt\", key = \"tls/a.key\" }]\nmin_version = \"1.3\"\nalpn = [\"h2\"]\n\
         client_ca = \"tls/ca.pem\"\nclient_auth = \"request\"\nclient_subject_header = \"X-Client-Subject\"",
    );
    let config = folder.check(text).config.unwrap();
    let path = |name: &str| folder.0.path().join("tls").join(name);
    let certs = vec![CertFiles { cert: path("a.crt"), key: path("a.key"), ocsp: None }];
    let clients = Some(ClientCerts {
        ca: path("ca.pem"),
        required: false,
        subject_header: Some(http::HeaderName::from_static("x-client-subject")),
        cert_header: None,
    });
    assert_eq!(config.listeners[0].tls, Some(ListenerTls { certs, tls12: false, h2: true, http1: false, clients }));
    let config = folder.check(listener("certs = [{ cert = \"tls/a.crt\", key = \"tls/a.key\" }]")).config.unwrap();
    let tls = config.listeners[0].tls.clone().unwrap();
    assert_eq!((tls.tls12, tls.h2, tls.http1, tls.clients), (true, true, true, None));
}

#[test]
fn files_that_can_t_be_served_are_errors_at_their_names() {
    let folder = folder();
    for (cert, key, expected) in [
        (
            "tls/a.key",
            "tls/a.crt",
            &[
                "tls-file 7:19 \"tls/a.key\": certificate file tls/a.key: holds no certificate in PEM form",
                "tls-file 7:38 \"tls/a.crt\": private key file tls/a.crt: holds no private key in PEM form",
            ][..],
        ),
        (
            "tls/a.crt",
            "tls/b.key",
            &["tls-file 7:38 \"tls/b.key\": private key file tls/b.key: it is not the key of the certificate"],
        ),
        (
            "none.crt",
            "tls/a.key",
            &[
                "tls-file 7:19 \"none.crt\": certificate file none.crt: cannot read: No such file or directory (os error 2)",
            ],
        ),
    ] {
        let found = findings(&folder, &listener(&format!("certs = [{{ cert = \"{cert}\", key = \"{key}\" }}]")));
        assert_eq!(found, expected);
    }
    let broken = findings(&folder, &listener("certs = [{ cert = \"tls/broken\", key = \"tls/a.key\" }]"));
    assert!(broken[0].contains("certificate file tls/broken: not valid PEM"), "{broken:?}");
}

#[test]
fn a_certificate_that_soon_can_t_be_served_is_warned_of() {
    let folder = folder();
    let now = time::unix(SystemTime::now());
    // Days from now, and a minute more.
    let day = |days: i64| {
        let seconds = (now + days * time::DAY_SECONDS + 60).try_into().unwrap();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    for (from, until, expected) in [
        (-10, -2, Some("has expired on ")),
        (-10, 0, Some("expires within a day, on ")),
        (-10, 1, Some("expires in 1 day, on ")),
        (-10, 20, Some("expires in 20 days, on ")),
        (-10, 22, None),
        (2, 90, Some("is valid from ")),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (day(from), day(until));
        folder.write("tls/a.crt", params.self_signed(&key).unwrap().pem());
        folder.write("tls/a.key", key.serialize_pem());
        let loaded = folder.check(listener("certs = [{ cert = \"tls/a.crt\", key = \"tls/a.key\" }]"));
        assert!(loaded.config.is_some());
        let messages: Vec<_> = loaded.report.warnings().map(|one| (one.code, one.message.clone())).collect();
        match expected {
            None => assert!(messages.is_empty(), "{messages:?}"),
            Some(what) => {
                assert_eq!((messages.len(), messages[0].0), (1, "cert-expiry"), "{messages:?}");
                assert!(messages[0].1.contains(&format!("tls/a.crt {what}")), "{messages:?}");
            }
        }
    }
}

#[test]
fn a_staple_that_can_t_be_served_is_a_warning() {
    let folder = folder();
    let text =
        |ocsp: &str| listener(&format!("certs = [{{ cert = \"tls/a.crt\", key = \"tls/a.key\", ocsp = \"{ocsp}\" }}]"));
    let expected = "ocsp 7:58 \"tls/broken\": the OCSP response in \"tls/broken\" is not served: it is no OCSP response \
                    in DER form";
    assert_eq!(findings(&folder, &text("tls/broken")), [expected]);
    assert!(folder.check(text("tls/broken")).config.is_some());
    assert!(findings(&folder, &text("none"))[0].contains("OCSP response file none: cannot read"));
}

#[test]
fn client_certificates_that_make_no_sense() {
    let folder = folder();
    let with = |lines: &str| listener(&format!("certs = [{{ cert = \"tls/a.crt\", key = \"tls/a.key\" }}]\n{lines}"));
    let help_less = |lines: &str| findings(&folder, &with(lines));
    assert_eq!(
        help_less("client_auth = \"require\"\nclient_cert_header = \"client-cert\""),
        [
            "missing-key 8:15 \"require\": `listener.tls.client_auth` without `client_ca`: clients are not asked",
            "missing-key 9:22 \"client-cert\": `listener.tls.client_cert_header` without `client_ca`: clients are not asked",
        ]
    );
    assert_eq!(
        help_less("client_ca = \"tls/a.key\""),
        ["tls-file 8:13 \"tls/a.key\": CA file tls/a.key: holds no certificate in PEM form"]
    );
    for (lines, expected) in [
        ("client_auth = \"demand\"", "is \"demand\", expected \"require\" or \"request\""),
        ("client_subject_header = \"Host\"", "\"Host\" is used otherwise"),
        ("client_subject_header = \"X-Forwarded-User\"", "\"X-Forwarded-User\" is used otherwise"),
        ("client_subject_header = \"a b\"", "\"a b\" cannot be the name of a header"),
        (
            "client_subject_header = \"x-c\"\nclient_cert_header = \"X-C\"",
            "the subject and the certificate can't be in one header",
        ),
    ] {
        let found = help_less(&format!("client_ca = \"tls/a.crt\"\n{lines}"));
        assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
    }
}

#[test]
fn a_pool_becomes_what_it_says() {
    let folder = folder();
    let path = |name: &str| folder.0.path().join("tls").join(name);
    let all = "{ ca = \"tls/a.crt\", server_name = \"api.internal\", client_cert = \"tls/a.crt\", client_key = \"tls/a.key\" }";
    let config = folder.check(pool(all)).config.unwrap();
    let expected = PoolTls {
        ca: Some(path("a.crt")),
        server_name: Some("api.internal".to_owned()),
        client: Some(CertFiles { cert: path("a.crt"), key: path("a.key"), ocsp: None }),
        verify: true,
    };
    assert_eq!((&config.pools[0].tls, &config.pools[1].tls), (&None, &Some(expected)));
}

#[test]
fn pools_whose_targets_can_t_be_trusted() {
    let folder = folder();
    let unverified = findings(&folder, &pool("{ verify = false }"));
    assert_eq!(
        unverified,
        ["tls-no-verify 10:18 false: pool.b takes any certificate: whoever is between Weir and a target can read all"]
    );
    assert!(folder.check(pool("{ verify = false }")).config.is_some());
    for (tls, expected) in [
        ("true", "wrong-type 10:7 true: `pool.b.tls` is a boolean, expected a table"),
        ("{ sni = 1 }", "unknown-key 10:9 sni: unknown key `sni` in pool.b.tls"),
        (
            "{ verify = false, ca = \"tls/a.crt\" }",
            "bad-value 10:30 \"tls/a.crt\": pool.b has a `ca` and `verify = false`, which takes no notice of it",
        ),
        (
            "{ ca = \"tls/a.crt\", server_name = \"a b\" }",
            "bad-value 10:41 \"a b\": \"a b\" is neither a DNS name nor an IP address",
        ),
        (
            "{ ca = \"tls/a.crt\", client_cert = \"tls/a.crt\" }",
            "missing-key 10:41 \"tls/a.crt\": pool.b.tls has one of `client_cert` and `client_key` without the other",
        ),
        (
            "{ ca = \"tls/a.crt\", client_cert = \"tls/a.crt\", client_key = \"tls/b.key\" }",
            "tls-file 10:67 \"tls/b.key\": private key file tls/b.key: it is not the key of the certificate",
        ),
        (
            "{ ca = \"none\" }",
            "tls-file 10:14 \"none\": CA file none: cannot read: No such file or directory (os error 2)",
        ),
    ] {
        let errors: Vec<_> =
            findings(&folder, &pool(tls)).into_iter().filter(|one| !one.starts_with("tls-no-verify")).collect();
        assert_eq!(errors, [expected], "{tls}");
    }
}
