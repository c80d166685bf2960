//! What ends, stops and restarts the coordinators' processes, and sets their clocks wrong.
//!
//! Invariant: a process that stands still is not polled, and knows nothing of it afterwards; what
//! it had sent goes its way meanwhile.

use crate::disk::Landing;
use crate::world::{State, World, process_name};
use rand::RngExt;
use std::sync::Arc;
use std::time::Duration;
use tidelock_engine::version::NodeId;
use tidelock_faults::{Call, End, Fault, Kind, Moment, Place};

/// A message that is sent so long before a pause may still be under way when it begins.
const UNDER_WAY_MS: u64 = 10_000;
/// A crash that comes again does so at one of the first calls of a life, each of which has two
/// moments.
const AGAIN_MOMENTS_MAX: u32 = 8;
/// Lives that a crash loop ends after the first, at most.
const LOOP_LIVES_MAX: u32 = 4;

/// A crash that comes again.
#[derive(Debug)]
pub struct Again {
    lives_left: u32,
    /// Moments of calls since the last crash.
    moments: u32,
    /// It comes at this one.
    due: u32,
}

/// Plays the faults that begin at a time and not at a call.
pub fn begin(world: &Arc<World>) {
    for fault in world.all_faults(Kind::ProcessPause) {
        let Place::Node(node) = fault.place else { continue };
        let (world, fault) = (world.clone(), fault.clone());
        madsim::task::spawn(async move {
            world.sleep(Duration::from_millis(fault.from_ms)).await;
            pause(&world, NodeId(node), fault.until_ms).await;
        });
    }
}

/// Stops a process, and lets it go on at `until_ms`.
async fn pause(world: &Arc<World>, node: NodeId, until_ms: u64) {
    let at = usize::from(node.0);
    let begun = {
        let mut state = world.state();
        let process = &mut state.processes[at];
        process.pauses += u32::from(process.up);
        let up = process.up;
        if up {
            state.felt(Kind::ProcessPause);
            world.note(&mut state, End::Node(node.0), "pause", None, 0, String::new);
        }
        up
    };
    if !begun {
        return;
    }
    world.handle().pause(process_name(node).as_str());
    world.sleep(Duration::from_millis(until_ms.saturating_sub(world.now_ms()))).await;
    let goes_on = {
        let mut state = world.state();
        let process = &mut state.processes[at];
        process.pauses -= 1;
        let goes_on = process.pauses == 0;
        state.breakers.resumed(node, world.now());
        world.note(&mut state, End::Node(node.0), "resume", None, 0, String::new);
        goes_on
    };
    if goes_on {
        world.handle().resume(process_name(node).as_str());
    }
}

impl World {
    /// True when a message that is sent now may be under way while its sender stands still.
    pub(crate) fn may_pause(&self, node: NodeId) -> bool {
        let pauses = self.all_faults(Kind::ProcessPause);
        if pauses.is_empty() {
            return false;
        }
        let now_ms = self.now_ms();
        pauses.iter().any(|fault| {
            fault.place == Place::Node(node.0)
                && now_ms + UNDER_WAY_MS >= fault.from_ms
                && now_ms < fault.until_ms
        })
    }

    /// How long a process still stands still; `None`: it does not.
    pub(crate) fn resumes_in(&self, node: NodeId) -> Option<Duration> {
        let mut pauses = self.faults(Kind::ProcessPause).peekable();
        pauses.peek()?;
        if self.state().processes[usize::from(node.0)].pauses == 0 {
            return None;
        }
        let here = pauses.filter(|fault| fault.place == Place::Node(node.0));
        let until_ms = here.map(|fault| fault.until_ms).max()?;
        Some(Duration::from_millis(until_ms.saturating_sub(self.now_ms())))
    }

    /// A coordinator reaches a call; it may be its last.
    pub(crate) async fn crash_point(self: &Arc<Self>, node: NodeId, call: Call, moment: Moment) {
        if !self.crashes.is_empty() && self.counts_to_crash(node, call, moment) {
            // The process has ended; nothing after this line runs in it.
            std::future::pending::<()>().await;
        }
    }

    fn counts_to_crash(self: &Arc<Self>, node: NodeId, call: Call, moment: Moment) -> bool {
        let now_ms = self.now_ms();
        let crash = {
            let mut state = self.state();
            let mut here = self.crashes.iter().filter(|fault| {
                fault.holds_at(now_ms)
                    && matches!(fault.place, Place::Call { node: at, .. } if at == node.0)
            });
            here.find(|fault| self.is_last_call(&mut state, fault, call, moment))
        };
        let Some(fault) = crash else { return false };
        let torn = fault.kind == Kind::DiskTornTail;
        let landing = if torn { Landing::Torn } else { Landing::Whole };
        self.crash(node, Duration::from_millis(fault.span_ms), landing);
        true
    }

    /// Counts a call, or a moment of a life that is to end early; true: the process ends here.
    fn is_last_call(&self, state: &mut State, fault: &Fault, call: Call, moment: Moment) -> bool {
        let Place::Call { call: of, ordinal, moment: when, .. } = fault.place else { return false };
        let lives_left = match state.again.get_mut(&fault.id) {
            Some(again) => {
                again.moments += 1;
                if again.moments < again.due {
                    return false;
                }
                state.felt(fault.kind);
                state.again.remove(&fault.id).map_or(0, |again| again.lives_left)
            }
            None => {
                if (of, when) != (call, moment) {
                    return false;
                }
                let count = state.call_counts.entry(fault.id).or_default();
                *count += 1;
                if *count != ordinal {
                    return false;
                }
                match fault.kind {
                    Kind::ProcessCrashInRecovery => 1,
                    Kind::ProcessCrashLoop => {
                        self.choices(state, fault.id).random_range(2..=LOOP_LIVES_MAX)
                    }
                    _ => {
                        state.felt(fault.kind);
                        0
                    }
                }
            }
        };
        if lives_left > 0 {
            let due = self.choices(state, fault.id).random_range(1..=AGAIN_MOMENTS_MAX);
            let again = Again { lives_left: lives_left - 1, moments: 0, due };
            state.again.insert(fault.id, again);
        }
        true
    }

    /// How far a coordinator's wall clock is off now, in milliseconds.
    pub(crate) fn clock_error_ms(&self, node: NodeId) -> i64 {
        let skew_ms = self.scenario.clock_skew_ms[usize::from(node.0)];
        if self.clocks.is_empty() {
            return skew_ms;
        }
        let now_ms = self.now_ms();
        let mut error_ms = skew_ms;
        for fault in self.clocks.iter().filter(|fault| fault.holds_at(now_ms)) {
            let Place::Clock { node: at, back } = fault.place else { continue };
            if at != node.0 {
                continue;
            }
            let off_ms = match fault.kind {
                Kind::ClockDrift => (now_ms - fault.from_ms) * u64::from(fault.permille) / 1_000,
                _ => fault.span_ms,
            };
            let off_ms = i64::try_from(off_ms).expect("clocks are off by hours, not by ages");
            error_ms += if back { -off_ms } else { off_ms };
            if off_ms > 0 {
                self.state().felt(fault.kind);
            }
        }
        error_ms
    }
}
