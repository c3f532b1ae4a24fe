//! Redirects that lead back to their own route, where the file alone shows it: a browser would go round for ever.
//!
//! One example of the requests that a route takes is followed. What depends on the world outside (whose port 80 a
//! host's is) is not guessed; such a request is answered with an error when it comes back to itself.

use super::Checker;
use crate::config::model::{Bind, Listener, RouteConfig};
use crate::config::raw;
use crate::routing::filters::OwnAnswer;
use crate::routing::matcher::{HostMatch, PathMatch};
use crate::routing::redirect::Redirect;
use crate::routing::scheme::Scheme;
use crate::routing::table::RequestView;
use std::cmp::Reverse;

/// A label and a segment that no route is likely to name.
const SAMPLE: &str = "weir-check";

/// Where the followed request comes back to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Back {
    /// A listener of this process.
    Here,
    /// A listener of this scheme, if what reaches its port comes from the scheme's usual one.
    Perhaps,
    Elsewhere,
}

impl Checker<'_> {
    pub fn redirect_loops(&mut self, raw: &[raw::Route], routes: &[RouteConfig], listeners: &[Listener]) {
        // A redirect that was not read whole leads nowhere yet.
        if self.findings.has_errors() {
            return;
        }
        for (index, route) in routes.iter().enumerate() {
            let answer = route.filters.as_ref().and_then(|filters| filters.answer.as_ref());
            let Some(OwnAnswer::Redirect(redirect)) = answer else { continue };
            let Some(place) = raw[index].filters.redirect.as_ref().map(|redirect| redirect.place) else { continue };
            let Some((host, path)) = followed(route, redirect) else { continue };
            let takes = |scheme: Scheme| {
                let scheme = redirect.scheme.unwrap_or(scheme);
                taken_by(routes, scheme, host.as_deref(), &path) == Some(index)
            };
            if !schemes(route).iter().any(|scheme| takes(*scheme)) {
                continue;
            }
            let message = format!("{} leads back to itself: it takes what it redirects to", raw[index].path);
            match back(route, redirect, listeners) {
                Back::Here => {
                    let help = "redirect to another host or path, or give what it redirects to a route of its own";
                    self.findings.error("redirect-loop", place, message).help(help);
                }
                Back::Perhaps => {
                    let help = match redirect.scheme {
                        Some(Scheme::Http) => {
                            "the route also takes what came by http: write match = { scheme = \"https\", … }"
                        }
                        _ => "the route also takes what came by https: write match = { scheme = \"http\", … }",
                    };
                    self.findings.warning("redirect-loop", place, message).help(help);
                }
                Back::Elsewhere => {}
            }
        }
    }
}

/// Host and path that a request of the route is led to; None when no example is known.
fn followed(route: &RouteConfig, redirect: &Redirect) -> Option<(Option<String>, String)> {
    if !route.matches.methods.is_empty() || !route.matches.conditions.is_empty() {
        return None;
    }
    let host = match &route.matches.host {
        HostMatch::Regex(_) => return None,
        HostMatch::Any => None,
        HostMatch::Exact(name) => Some(name.clone()),
        HostMatch::Wildcard(suffix) => Some(format!("{SAMPLE}.{suffix}")),
    };
    let path = match &route.matches.path {
        PathMatch::Prefix(prefix) => format!("{prefix}/{SAMPLE}"),
        PathMatch::Exact(path) => path.clone(),
        PathMatch::Regex(_) => return None,
    };
    let path = redirect.path.as_ref().map_or(path.clone(), |change| change.apply(&path).into_owned());
    Some((redirect.host.clone().or(host), path))
}

/// Those that the route takes.
fn schemes(route: &RouteConfig) -> &[Scheme] {
    match &route.matches.scheme {
        Some(scheme) => std::slice::from_ref(scheme),
        None => &[Scheme::Http, Scheme::Https],
    }
}

/// The route that a request gets.
fn taken_by(routes: &[RouteConfig], scheme: Scheme, host: Option<&str>, path: &str) -> Option<usize> {
    let (method, headers, client_ip) = (http::Method::GET, http::HeaderMap::new(), [127, 0, 0, 1].into());
    let request = RequestView { scheme, host, path, query: None, method: &method, headers: &headers, client_ip };
    let taking = routes.iter().enumerate().filter(|(_, route)| route.matches.takes(&request));
    taking.min_by_key(|(index, route)| (Reverse(route.matches.precedence()), *index)).map(|(index, _)| index)
}

/// A socket without a port is behind something that has one, which is not known here.
fn is_at(bind: &Bind, port: u16) -> bool {
    matches!(bind, Bind::Tcp(addr) if addr.port() == port)
}

/// Whether the location is at one of the listeners. The host is one that the route takes.
fn back(route: &RouteConfig, redirect: &Redirect, listeners: &[Listener]) -> Back {
    if redirect.is_on_same_server() {
        return Back::Here;
    }
    // That a name is served here is known only if the route says so outright.
    let host_is_here = redirect.host.as_ref().is_none_or(|host| route.matches.host == HostMatch::Exact(host.clone()));
    let scheme_of = |listener: &Listener| Scheme::of(listener.tls.is_some());
    let scheme = redirect.scheme.or(route.matches.scheme);
    let mut same_scheme = listeners.iter().filter(|listener| scheme.is_none_or(|s| s == scheme_of(listener)));
    let port = |listener: &Listener| redirect.port.unwrap_or(scheme_of(listener).default_port());
    if host_is_here && same_scheme.clone().any(|listener| is_at(&listener.bind, port(listener))) {
        return Back::Here;
    }
    let scheme_alone = redirect.scheme.is_some() && redirect.host.is_none() && redirect.port.is_none();
    if scheme_alone && same_scheme.next().is_some() { Back::Perhaps } else { Back::Elsewhere }
}
