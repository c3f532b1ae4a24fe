//! The routes that a request might have gone to: the one that took it, those that lost, and those that nearly matched.
//!
//! Every route is asked once, and words are made for few: with 10,000 routes a trace stays small and quick.

use crate::limits::EXPLAIN_ROUTES;
use crate::routing::matcher::{HostMatch, HostScratch, PathMatch, RequestMatch, any_of, host_name};
use crate::routing::redact::Redact;
use crate::routing::rule::{Subject, Test};
use crate::routing::table::{Decision, RequestView, RoutingTable};

/// A route, and why it did or did not get the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Index into the table's routes.
    pub route: usize,
    pub taken: bool,
    pub why: String,
}

pub struct Near {
    pub considered: Vec<Considered>,
    pub others: usize,
    /// How many routes take the request.
    pub takers: usize,
}

/// How near a route comes that did not get the request; the nearest first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nearness {
    /// It takes the request and lost to a more specific one.
    Lost,
    /// Its host and path match, something else does not.
    Almost,
    /// It names the host.
    Host,
    /// It names the path.
    Path,
    /// For any host, with another path.
    AnyHost,
    Far,
}

const NEARNESSES: usize = Nearness::Far as usize + 1;

pub fn routes(
    table: &RoutingTable,
    request: &RequestView<'_>,
    decision: Option<&Decision>,
    asked: Option<usize>,
    redact: &dyn Redact,
) -> Near {
    let chosen = decision.map(|decision| decision.route);
    let mut scratch = HostScratch::default();
    let name = request.host.and_then(|host| host_name(host, &mut scratch));
    let mut nearest: [Vec<usize>; NEARNESSES] = Default::default();
    let mut takers = usize::from(chosen.is_some());
    for (index, route) in table.routes().iter().enumerate().filter(|(index, _)| Some(*index) != chosen) {
        let nearness = nearness(&route.matches, name, request);
        takers += usize::from(nearness == Nearness::Lost);
        let list = &mut nearest[nearness as usize];
        if list.len() < EXPLAIN_ROUTES && Some(index) != asked {
            list.push(index);
        }
    }
    if chosen.is_some() {
        nearest[Nearness::Far as usize].clear();
    }
    let asked = asked.filter(|asked| Some(*asked) != chosen);
    let listed = nearest.into_iter().flatten().take(EXPLAIN_ROUTES);
    let considered: Vec<Considered> = chosen
        .into_iter()
        .chain(asked)
        .chain(listed)
        .map(|route| Considered {
            route,
            taken: Some(route) == chosen,
            why: why(table, request, (chosen, route), redact),
        })
        .collect();
    Near { others: table.routes().len() - considered.len(), considered, takers }
}

/// `name` is the request's host as matches hold it.
fn nearness(matches: &RequestMatch, name: Option<&[u8]>, request: &RequestView<'_>) -> Nearness {
    let names_path = !matches!(&matches.path, PathMatch::Prefix(prefix) if prefix.is_empty());
    match (matches.host.takes(name), matches.path.takes(request.path)) {
        (true, true) if matches.misses_named(name, request).is_none() => Nearness::Lost,
        (true, true) => Nearness::Almost,
        (true, false) if matches.host == HostMatch::Any => Nearness::AnyHost,
        (true, false) => Nearness::Host,
        (false, true) if names_path => Nearness::Path,
        _ => Nearness::Far,
    }
}

fn why(
    table: &RoutingTable,
    request: &RequestView<'_>,
    (chosen, index): (Option<usize>, usize),
    redact: &dyn Redact,
) -> String {
    let route = &table.routes()[index];
    if Some(index) == chosen {
        return described(&route.matches, redact);
    }
    let winner = chosen.map(|chosen| &table.routes()[chosen]);
    match (route.matches.misses(request), winner) {
        (Some(miss), _) => miss.told(redact),
        (None, Some(winner)) if route.matches.precedence() < winner.matches.precedence() => {
            format!("takes it too, but {} is more specific", winner.name)
        }
        (None, Some(winner)) => format!("takes it too and is as specific as {}, which stands first", winner.name),
        (None, None) => "takes it".to_owned(),
    }
}

/// A match in words.
fn described(matches: &RequestMatch, redact: &dyn Redact) -> String {
    let host = match &matches.host {
        HostMatch::Any => "any host".to_owned(),
        host @ HostMatch::Regex(_) => format!("host matching {}", host.told(redact)),
        host => format!("host {}", host.told(redact)),
    };
    let path = match &matches.path {
        PathMatch::Prefix(prefix) if prefix.is_empty() => "any path".to_owned(),
        PathMatch::Prefix(prefix) => format!("path under {}", redact.shown(prefix)),
        PathMatch::Exact(path) => format!("path {}", redact.shown(path)),
        PathMatch::Regex(pattern) => format!("path matching {}", redact.shown(pattern.as_str())),
    };
    let methods = &matches.methods;
    let method = (!methods.is_empty()).then(|| format!("method {}", any_of(methods, redact)));
    let told = |(subject, test): &(Subject, Test)| format!("{} {}", subject.told(redact), test.told(redact));
    let conditions = matches.conditions.iter().map(told);
    let scheme = matches.scheme.map(|scheme| format!("scheme {}", scheme.name()));
    scheme.into_iter().chain([host, path]).chain(method).chain(conditions).collect::<Vec<_>>().join(", ")
}
