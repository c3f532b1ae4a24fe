//! Sockets that are no IP address and port: unix sockets, and those that systemd hands over. And who may say on a
//! listener's connections for whom they are.

use super::Checker;
use crate::config::cursor::word;
use crate::config::model::Bind;
use crate::config::raw;
use crate::config::source::At;
use crate::net::address::UNIX_PATH_BYTES;
use crate::net::proxy_protocol::{Accepts, Version};
use std::path::PathBuf;

/// A listener's socket file is for its owner and group.
const MODE: u32 = 0o660;

impl Checker<'_> {
    pub fn bind(&mut self, raw: &raw::Listener) -> Option<Bind> {
        let written = raw.bind.as_ref()?;
        if let Some(mode) = raw.mode.as_ref().filter(|_| !written.value.starts_with("unix:")) {
            let finding = self.findings.error("bad-value", mode.place, "`mode` is of a unix socket's file");
            finding.help("leave it out, or write bind = \"unix:PATH\"");
        }
        if written.value.starts_with("unix:") {
            let mode = raw.mode.as_ref().map_or(Some(MODE), |mode| self.mode(mode));
            return Some(Bind::Unix { path: self.socket_path(written)?, mode: mode? });
        }
        match written.value.strip_prefix("fd:") {
            Some(name) => self.passed_name(written, name).map(Bind::Passed),
            None => self.address(written).map(Bind::Tcp),
        }
    }

    /// The absolute path of `unix:PATH`.
    pub fn socket_path(&mut self, written: &At<String>) -> Option<PathBuf> {
        let path = written.value.strip_prefix("unix:")?;
        if path.is_empty() {
            self.findings.error("bad-address", written.place, "\"unix:\" names no path");
            return None;
        }
        let path = self.sources.resolve(written.place.file, path);
        let length = path.as_os_str().len();
        if length > UNIX_PATH_BYTES || path.as_os_str().as_encoded_bytes().contains(&0) {
            let message = format!("a unix socket's path is at most {UNIX_PATH_BYTES} bytes without NUL, not {length}");
            let help = "the whole path counts, the folder of this file in front of a relative one included";
            self.findings.error("bad-address", written.place, message).help(help);
            return None;
        }
        Some(path)
    }

    fn mode(&mut self, written: &At<String>) -> Option<u32> {
        let digits = matches!(written.value.len(), 3 | 4) && written.value.bytes().all(|byte| byte.is_ascii_digit());
        let mode = u32::from_str_radix(&written.value, 8).ok().filter(|mode| digits && *mode <= 0o777);
        if mode.is_none() {
            let message = format!("{} is not a file's mode", written.shown());
            let help = "write three octal digits: \"0660\" is for owner and group, \"0666\" for everybody";
            self.findings.error("bad-value", written.place, message).help(help);
        }
        mode
    }

    /// systemd's rules for `FileDescriptorName=`.
    fn passed_name(&mut self, written: &At<String>, name: &str) -> Option<String> {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b':';
        if (1..=255).contains(&name.len()) && name.bytes().all(plain) {
            return Some(name.to_owned());
        }
        let message = format!("{} names no socket that systemd can hand over", written.shown());
        let help = "write \"fd:NAME\" with the FileDescriptorName= of the .socket unit";
        self.findings.error("bad-address", written.place, message).help(help);
        None
    }

    /// Which PROXY protocol the listener takes; None inside: none. Without a trusted proxy nobody may speak it.
    pub fn accepts(&mut self, raw: &raw::Listener, trusts_somebody: bool) -> Option<Option<Accepts>> {
        let Some(written) = &raw.proxy_protocol else { return Some(None) };
        let words = ["off", "v1", "v2", "any"];
        let accepts = match word(self.findings, written, "listener.proxy_protocol", &words)? {
            0 => return Some(None),
            1 => Accepts::V1,
            2 => Accepts::V2,
            _ => Accepts::Any,
        };
        if !trusts_somebody {
            let message = "the PROXY protocol is taken from trusted proxies only, and there is none";
            let help = "[server] trusted_proxies = [\"10.0.0.0/8\"], with the addresses of what stands in front";
            self.findings.error("no-trusted-proxy", written.place, message).help(help);
        }
        Some(Some(accepts))
    }

    /// Which PROXY protocol the pool's targets are sent; None inside: none.
    pub fn sends(&mut self, raw: &raw::Pool) -> Option<Option<Version>> {
        let Some(written) = &raw.send_proxy else { return Some(None) };
        let path = format!("pool.{}.send_proxy", raw.name.value);
        Some(match word(self.findings, written, &path, &["off", "v1", "v2"])? {
            0 => None,
            1 => Some(Version::V1),
            _ => Some(Version::V2),
        })
    }
}
