//! Rollouts as they run: a machine for each, driven by time, verdicts and people.
//!
//! One task, [`driver`], has all machines. What they want to last or to publish goes to the controller as any other
//! change, with the revision and the line in the audit log that go with it. Taking traffic back is the exception: it goes by
//! a way of its own, is published at once, and gets to the disk after. So neither a slow disk nor whoever waits for one
//! delays it.

mod ask;
mod driver;
mod evidence;
pub mod tell;
pub mod view;
mod writes;

pub use driver::{Act, ActError, Acted, Asked};

use super::Control;
use super::audit::Refused;
use super::command::{Command, Installed, Origin};
use super::ground::Ground;
use crate::boundary::judged::Judged;
use crate::config::RouteConfig;
use crate::routing::split::Weight;
use arc_swap::ArcSwap;
use driver::{Driver, Message};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tell::Teller;
use tokio::sync::{mpsc, oneshot};
use view::{View, Views};

/// How many may ask something at once; further ones wait.
const QUEUE: usize = 1024;

/// Where rollouts are asked and looked at.
pub struct Rollouts {
    asked: mpsc::Sender<Message>,
    views: Arc<Views>,
    teller: Teller,
}

/// Beside the driver, which is to be run, what it sends past the controller's other commands.
pub fn prepare(
    ground: &Arc<ArcSwap<Ground>>,
    commands: &mpsc::Sender<Command>,
) -> (Rollouts, Driver, mpsc::UnboundedReceiver<RolloutChange>) {
    let (urgent, taken_back) = mpsc::unbounded_channel();
    let (asked, inbox) = mpsc::channel(QUEUE);
    let teller = Teller::new(u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0));
    let driver = Driver::new(Arc::clone(ground), commands.downgrade(), urgent, inbox, teller.clone());
    (Rollouts { asked, views: Arc::clone(&driver.views), teller }, driver, taken_back)
}

impl Control {
    /// Asks something of a route's rollout. When this returns, it is saved, and every request that starts sees it.
    pub(super) async fn roll(&self, asked: Asked) -> Result<Acted, ActError> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Act { asked: asked.clone(), reply };
        self.shared.rollouts.asked.send(message).await.map_err(|_| ActError::Stopped)?;
        let result = answer.await.unwrap_or(Err(ActError::Stopped));
        match &result {
            Ok(_) | Err(ActError::NotSaved(_) | ActError::Stopped) => {}
            Err(_) if asked.dry_run => {}
            Err(error) => {
                let (route, verb, origin) = (&asked.route, asked.act.word(), &asked.origin);
                tracing::warn!(route = ?route, verb, actor = ?origin.actor, source = origin.source, %error, "not done");
                self.refused(Refused::rollout(route, verb, origin, error, Timestamp::now())).await;
            }
        }
        result
    }

    /// Another configuration is in force.
    pub(super) async fn rollouts_reloaded(&self, installed: &Installed) {
        // Without whoever drives them there are none.
        let _ = self.shared.rollouts.asked.send(Message::Reloaded { file_won: installed.file_won.clone() }).await;
    }

    pub(super) fn teller(&self) -> Teller {
        self.shared.rollouts.teller.clone()
    }

    /// By route; what was last known.
    pub(super) fn rollouts(&self) -> Arc<BTreeMap<String, Arc<View>>> {
        self.shared.rollouts.views.load_full()
    }
}

/// A route's rollout as it is part of the live state.
#[derive(Debug)]
pub struct LiveRollout {
    /// Of [`crate::rollout::Record`].
    pub record: Value,
    /// Weights are its own: nobody else changes them without overriding it.
    pub under_way: bool,
    /// Where its requests are counted, while it is judged.
    pub judged: Option<Arc<Judged>>,
}

/// Two of one record are the same: where they count is no part of what is saved.
impl PartialEq for LiveRollout {
    fn eq(&self, other: &LiveRollout) -> bool {
        self.record == other.record
    }
}

impl LiveRollout {
    /// As the state file has it.
    pub fn found(record: Value) -> LiveRollout {
        let under_way = !matches!(record["phase"].as_str(), Some("promoted" | "rolled_back"));
        LiveRollout { record, under_way, judged: None }
    }

    /// All its variants are the route's.
    pub fn fits(&self, route: &RouteConfig) -> bool {
        let variants = self.record["plan"]["variants"].as_array();
        let known = |name: &Value| route.variants.iter().any(|variant| name.as_str() == Some(&variant.name));
        variants.is_some_and(|variants| variants.iter().all(known))
    }
}

/// What a rollout makes of its route.
#[derive(Clone, Debug)]
pub struct RolloutChange {
    pub route: String,
    /// None: as if there had been none.
    pub rollout: Option<Arc<LiveRollout>>,
    pub weights: Option<Weighing>,
    /// Of what people asked for, where no weights changed.
    pub audit: Vec<String>,
    pub epoch: Epoch,
}

#[derive(Clone, Debug)]
pub struct Weighing {
    /// Variants that are not named get nothing.
    pub shares: Vec<(String, Weight)>,
    /// In the history.
    pub action: &'static str,
    pub origin: Origin,
}

/// Which of a rollout's changes are void, because traffic was taken back after they were made and before they were done.
#[derive(Clone, Debug, Default)]
pub struct Epoch {
    now: Arc<AtomicU64>,
    made: u64,
}

impl Epoch {
    /// For a change that is made now.
    pub fn current(&self) -> Epoch {
        Epoch { now: Arc::clone(&self.now), made: self.now.load(SeqCst) }
    }

    /// Whatever was made before is void.
    pub fn next(&self) -> Epoch {
        let made = self.now.fetch_add(1, SeqCst) + 1;
        Epoch { now: Arc::clone(&self.now), made }
    }

    pub fn is_void(&self) -> bool {
        self.made != self.now.load(SeqCst)
    }
}
