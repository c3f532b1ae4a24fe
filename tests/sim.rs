//! Rollouts in simulation: the machine against an obvious model under random commands, verdicts, crashes, stalls and
//! clock jumps; the machine and the judge with simulated traffic; the plans of the field.
//!
//! `SIM_RUNS=100000 cargo test --test sim` plays more games, `SIM_SEED=7` one of them. A failure prints its seed and the
//! game so far; a seed that found a mistake is kept in `sim/games.rs`.

#[path = "sim/field.rs"]
mod field;
#[path = "sim/games.rs"]
mod games;
#[path = "sim/model.rs"]
mod model;
#[path = "sim/plans.rs"]
mod plans;
#[path = "sim/traffic.rs"]
mod traffic;
#[path = "sim/world.rs"]
mod world;
