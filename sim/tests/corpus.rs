//! Seeds that once broke an invariant, kept. Each names what was wrong then; the trace of the
//! rule in `traces.rs` is its shortest form, where there is one.
#![cfg(madsim)]

use tidelock_faults::Kind;
use tidelock_sim::run;
use tidelock_sim::scenario::{Profile, Scenario};
use tidelock_sim::streams::Purpose;

/// What worlds have got since the first of these failed.
const SINCE: [Purpose; 3] = [Purpose::Erasures, Purpose::Increments, Purpose::Audit];

/// Runs seeds of `standard` in which nothing may be broken.
#[track_caller]
fn clean(seeds: &[u64]) {
    clean_in(Profile::Standard, seeds);
}

#[track_caller]
fn clean_in(profile: Profile, seeds: &[u64]) {
    for &seed in seeds {
        let scenario = before_refusals(Scenario::generate_without(profile, seed, &SINCE));
        let outcome = run::run(&scenario, None, false);
        let name = format!("{}:{seed}", profile.name());
        assert_eq!(outcome.violations, [], "cargo sim replay {name}");
        assert!(outcome.acknowledged > 0, "{name} writes nothing any more");
    }
}

/// Worlds of `conflicts` had no such faults then.
fn before_refusals(mut scenario: Scenario) -> Scenario {
    if scenario.profile == Profile::Conflicts {
        let since = [Kind::LoadPoisonRecord, Kind::D1Constraint];
        scenario.faults.retain(|fault| !since.contains(&fault.kind));
    }
    scenario
}

#[test]
fn a_conditional_write_that_was_answered_as_pending_and_then_cancelled() {
    clean(&[152, 843]);
}

#[test]
fn a_clear_that_landed_late_and_vouched_for_a_later_put() {
    clean(&[2_508, 3_038, 7_473, 9_835, 13_560, 13_756, 18_182]);
}

#[test]
fn a_conditional_write_that_was_acknowledged_because_its_coordinator_stopped() {
    clean(&[771]);
}

#[test]
fn a_write_kept_for_a_peer_that_was_settled_and_then_withdrawn_from_a_full_disk() {
    clean(&[898]);
}

#[test]
fn a_write_that_waited_for_ever_for_the_bytes_of_a_dead_one() {
    clean(&[1_933]);
}

#[test]
fn a_foreign_write_that_came_between_a_look_and_the_mark_for_what_it_showed() {
    clean_in(Profile::Hostile, &[2_498]);
}

#[test]
fn a_coordinator_that_stood_still_with_an_open_breaker() {
    clean(&[201_114]);
}

#[test]
fn a_conditional_write_that_was_refused_because_another_tombstone_was_reaped() {
    clean(&[30_008, 31_568]);
}

#[test]
fn a_coordinator_that_had_stopped_sent_one_more_put() {
    clean_in(Profile::Hostile, &[1_239]);
}

#[test]
fn a_value_that_a_store_would_not_take_and_that_expired() {
    clean_in(Profile::Quick, &[875]);
}

#[test]
fn an_acknowledgement_that_was_judged_by_another_policy_than_its_write_went_by() {
    clean_in(Profile::Hostile, &[2_166]);
}

#[test]
fn a_retired_members_operator_who_was_remembered_beyond_its_disk() {
    clean_in(Profile::Hostile, &[1_036, 1_041]);
}

#[test]
fn a_look_for_blobs_that_went_on_past_an_open_breaker() {
    clean(&[979]);
    clean_in(Profile::Hostile, &[32]);
}

#[test]
fn a_copy_that_was_lost_and_that_its_store_does_not_take_again() {
    clean_in(Profile::Quick, &[48]);
}

#[test]
fn a_conditional_write_that_a_leaving_coordinator_had_called_off() {
    clean_in(Profile::Hostile, &[2_804]);
}

#[test]
fn a_lease_of_a_row_that_was_reaped_and_its_namesake_in_the_one_that_began_there() {
    clean(&[59_914]);
}

#[test]
fn a_batch_that_was_taken_apart_by_a_coordinator_that_had_stopped() {
    clean(&[61_691]);
}

#[test]
fn a_copy_that_waited_a_minute_for_the_value_before_it_to_be_taken() {
    clean(&[63_142]);
}

#[test]
fn a_dead_write_whose_row_changed_while_it_was_tried_once_more() {
    clean(&[26_788, 118_096]);
}

#[test]
fn what_somebody_wrote_to_a_copy_after_its_store_had_refused_the_value() {
    clean(&[115_048]);
}

#[test]
fn a_session_that_asked_while_the_other_sites_feed_was_followed_halfway() {
    clean_in(Profile::Hostile, &[4_568]);
}

#[test]
fn a_refused_write_that_was_tried_again_and_again_over_the_same_row() {
    clean_in(Profile::Hostile, &[11_087]);
}

#[test]
fn a_foreign_write_that_was_found_while_the_store_for_its_bytes_was_away() {
    clean_in(Profile::Hostile, &[11_328]);
}

#[test]
fn a_write_beside_a_tombstone_that_was_reaped_before_it_was_installed() {
    clean_in(Profile::Conflicts, &[98]);
}

#[test]
fn what_a_rule_made_of_values_and_a_later_delete() {
    clean_in(Profile::Conflicts, &[546]);
}

#[test]
fn sets_in_which_a_delete_was_reaped_at_one_of_two_sites() {
    clean_in(Profile::Conflicts, &[136, 574, 4_580]);
}

#[test]
fn a_put_whose_bytes_came_after_its_coordinator_had_stopped() {
    let scenario = before_refusals(Scenario::generate(Profile::Conflicts, 28_829));
    assert_eq!(run::run(&scenario, None, false).violations, []);
}

/// What D1 does not take, among several values: shown in the end, kept by a letter alone, brought from another
/// site, and in a set that two sites join.
#[test]
fn what_the_authority_refused_among_others_that_it_takes() {
    for seed in [1_732, 1_497, 3_760, 2_197, 16_000, 27_759, 28_703] {
        let scenario = Scenario::generate(Profile::Conflicts, seed);
        assert_eq!(run::run(&scenario, None, false).violations, [], "conflicts:{seed}");
    }
}
