//! A configuration in a folder of its own, written part by part.

use super::{Upstream, Weir};
use std::net::SocketAddr;
use std::path::PathBuf;
use tempfile::TempDir;

/// The parts of a `weir.toml`; listeners and admin are on ports that the kernel chooses.
pub struct Site {
    pub folder: TempDir,
    pub top: String,
    pub server: String,
    pub limits: String,
    pub admin: String,
    pub rest: String,
}

impl Site {
    pub fn new() -> Site {
        Site {
            folder: TempDir::new().expect("the temporary folder is writable"),
            top: String::new(),
            server: "workers = 2\n".to_owned(),
            limits: String::new(),
            admin: "listen = [\"127.0.0.1:0\"]\n".to_owned(),
            rest: "[[listener]]\nname = \"http\"\nbind = \"127.0.0.1:0\"\n".to_owned(),
        }
    }
    /// Replaces `workers = 2` and adds to `[server]`.
    pub fn server(mut self, lines: &str) -> Site {
        self.server = format!("{lines}\n");
        self
    }
    pub fn limits(mut self, lines: &str) -> Site {
        self.limits = format!("{lines}\n");
        self
    }
    pub fn admin(mut self, lines: &str) -> Site {
        self.admin += lines;
        self
    }
    pub fn pool(self, name: &str, targets: &[SocketAddr], lines: &str) -> Site {
        let targets: Vec<String> = targets.iter().map(|addr| format!("\"{addr}\"")).collect();
        self.toml(&format!("[pool.{name}]\ntargets = [{}]\n{lines}\n", targets.join(", ")))
    }
    /// Any further tables.
    pub fn toml(mut self, tables: &str) -> Site {
        self.rest += tables;
        self.rest.push('\n');
        self
    }
    /// A pool `only` and a route `all` for every request, with these further keys.
    pub fn to(self, target: SocketAddr, pool_lines: &str, route_lines: &str) -> Site {
        self.pool("only", &[target], pool_lines).toml(&format!(
            "[[route]]\nname = \"all\"\nmatch = {{ path = \"/\" }}\nvariants = {{ stable = \"only\" }}\nweights = {{ stable = 100 }}\n{route_lines}"
        ))
    }
    /// The listener `http` is there instead, with these further keys.
    pub fn bind(mut self, bind: &str, lines: &str) -> Site {
        let plain = "bind = \"127.0.0.1:0\"\n";
        assert!(self.rest.contains(plain), "{}", self.rest);
        self.rest = self.rest.replacen(plain, &format!("bind = \"{bind}\"\n{lines}\n"), 1);
        self
    }
    pub fn text(&self) -> String {
        let Site { top, server, limits, admin, rest, .. } = self;
        format!("{top}[server]\n{server}[limits]\n{limits}[admin]\n{admin}{rest}")
    }
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("weir.toml")
    }
    pub fn write(&self) -> PathBuf {
        std::fs::write(self.file(), self.text()).expect("the temporary folder is writable");
        self.file()
    }
    #[track_caller]
    pub fn start(self) -> Weir {
        self.write();
        Weir::start(self)
    }
}

/// A route `shop` for every request over named targets with these starting weights; live state is kept in `state`.
pub fn split_site(variants: &[(&str, &Upstream, &str)], route_lines: &str) -> Site {
    let mut site = Site::new().server("workers = 2\nstate_dir = \"state\"");
    let pairs = |pair: fn(&(&str, &Upstream, &str)) -> String| variants.iter().map(pair).collect::<Vec<_>>().join(", ");
    for (name, upstream, _) in variants {
        site = site.pool(&format!("pool-{name}"), &[upstream.addr], "");
    }
    let pools = pairs(|(name, _, _)| format!("{name} = \"pool-{name}\""));
    let weights = pairs(|(name, _, weight)| format!("{name} = {weight}"));
    site.toml(&format!(
        "[[route]]\nname = \"shop\"\nmatch = {{ path = \"/\" }}\nvariants = {{ {pools} }}\nweights = {{ {weights} }}\n{route_lines}"
    ))
}
