//! `health` of a pool, in the file's own keys.

use crate::config::{CheckKind, HealthCheck, HttpCheck, shown_duration};
use serde_json::{Value, json};

pub fn check(check: &HealthCheck) -> Value {
    let HealthCheck { kind, interval, timeout, unhealthy_after, healthy_after } = check;
    let mut document = match kind {
        CheckKind::Tcp => json!({"kind": "tcp"}),
        CheckKind::Grpc { service, host } => json!({"kind": "grpc", "service": service, "host": host}),
        CheckKind::Http(HttpCheck { path, host, method, expect, body }) => {
            let statuses = expect.iter().map(|range| match range.start() == range.end() {
                true => range.start().to_string(),
                false => format!("{}-{}", range.start(), range.end()),
            });
            json!({
                "kind": "http",
                "path": path,
                "host": host,
                "method": method.as_str(),
                "expect": statuses.collect::<Vec<_>>(),
                "body": body,
            })
        }
    };
    document["interval"] = json!(shown_duration(*interval));
    document["timeout"] = json!(shown_duration(*timeout));
    document["unhealthy_after"] = json!(unhealthy_after);
    document["healthy_after"] = json!(healthy_after);
    document
}
