//! What every lease database must do, case by case.
//!
//! A new one joins with a type that implements [`MakeLeaseDb`] and the line `leasedb_contract!(ThatType);` in a test
//! binary. The cases know the trait only, so they say nothing about what no method shows.

pub mod accounts;
pub mod backups;
mod bench;
pub mod crawl;
pub mod expiry;
pub mod garbage;
pub mod leases;
pub mod races;
pub mod runs;
pub mod schedule;
pub mod slots;
pub mod uploads;

use std::future::Future;
use std::sync::Arc;

pub use bench::Bench;

use super::values::{Guard, Tasks};
use crate::clock::Clock;
use crate::id::ShareId;
use crate::lease::LeaseTerms;
use crate::leasedb::LeaseDb;

/// Makes lease databases for the contract.
pub trait MakeLeaseDb: Send + Sync + 'static {
    /// What it makes.
    type Db: LeaseDb;

    /// Makes an empty lease database, migrated; the guard is dropped when the case ends.
    fn make(clock: Arc<dyn Clock>, terms: LeaseTerms) -> impl Future<Output = (Self::Db, Guard)> + Send;

    /// How many reports about a share are open, where the maker can look behind the trait.
    fn open_advisories(_guard: &Guard, _share: ShareId) -> impl Future<Output = Option<u64>> + Send {
        std::future::ready(None)
    }

    /// Runs all tasks at the same time, each on whatever thread there is, and panics if one does.
    fn run_all(tasks: Tasks) -> impl Future<Output = ()> + Send;
}

/// Expands to one test for each case of the contract.
#[macro_export]
macro_rules! leasedb_contract {
    ($make:ty) => {
        $crate::leasedb_contract_cases! { $make;
            uploads: [
                an_upload_becomes_a_leased_share_when_nothing_is_missing,
                already_have_includes_shares_not_asked_for,
                a_share_in_upload_is_in_neither_set,
                an_overdue_upload_is_taken_over_at_once,
                what_does_not_fit_the_quota_is_in_neither_set,
                room_in_the_backend_counts_open_uploads,
                a_first_lease_that_does_not_fit_is_not_claimed,
                account_states_decide_what_allocate_may_do,
                a_stale_record_changes_nothing,
                recording_extends_the_deadline_even_when_nothing_is_new,
                overlapping_chunks_never_publish_a_share_with_a_hole,
                an_ended_upload_leaves_no_chunks_behind,
                only_overdue_uploads_are_ended_or_listed_as_such,
                a_chunk_of_an_old_object_is_refused,
                a_slot_takes_no_uploads,
                an_upload_never_joins_a_slot,
                an_empty_share_is_finished_by_an_empty_object,
                what_other_connections_of_a_tub_began_is_abandoned,
            ],
            slots: [
                the_first_write_makes_the_slot,
                a_commit_on_another_token_changes_nothing,
                removal_of_the_last_share_ends_the_slot_and_its_write_enabler,
                shares_not_named_keep_their_leases_untouched,
                growth_over_quota_changes_nothing,
                usage_of_all_leaseholders_follows_the_size,
                a_commit_of_old_objects_is_refused,
                account_states_decide_who_may_commit,
                a_bucket_is_never_turned_into_a_slot,
                removing_what_is_not_there_is_fine,
            ],
            leases: [
                renewal_without_shares_is_not_found,
                renewal_leases_every_stable_share_of_either_kind,
                an_expiry_is_never_moved_back,
                a_damped_renewal_never_lies,
                no_slack_writes_every_renewal,
                a_lapsed_lease_is_renewed_like_any_other,
                a_first_lease_over_quota_renews_what_is_held,
                account_states_decide_who_may_renew,
                accounts_with_more_days_are_granted_more,
                a_lease_is_prolonged_and_never_made_nor_shortened,
            ],
            garbage: [
                superseded_objects_wait_for_readers,
                removed_shares_can_be_undone_for_a_week,
                aborted_uploads_and_their_strays_are_garbage_soon,
                claims_lapse_and_finished_rows_are_done_for,
                claims_are_bounded_and_disjoint,
                what_a_row_names_is_never_garbage,
                a_name_that_a_row_came_to_name_is_not_handed_out,
                a_marker_is_kept_until_the_next_commit,
            ],
            accounts: [
                an_account_is_made_once_by_name,
                a_closed_account_frees_its_name_and_keeps_its_number,
                a_closed_account_is_opened_again_with_what_it_held,
                at_most_two_credentials_are_valid,
                rotation_without_overlap_revokes_at_once,
                the_version_grows_with_every_change,
                settings_change_one_by_one,
                accounts_are_listed_in_pages_with_their_usage,
                the_last_use_of_a_credential_is_kept,
                advisories_are_bounded_for_each_share,
            ],
            backups: [
                an_export_fills_an_empty_database_exactly,
                a_database_with_anything_in_it_is_not_filled,
                an_import_that_breaks_off_changes_nothing,
                numbers_go_on_behind_all_that_may_have_been_given_away,
                a_run_that_was_under_way_is_over,
                an_export_is_one_instant_however_long_it_takes,
                garbage_waits_for_a_backup_that_does_not_name_it,
            ],
            expiry: [
                an_ended_lease_goes_and_its_share_is_queued,
                a_lease_that_changed_since_it_was_read_stays,
                pages_show_every_lease_once,
                what_goes_is_what_a_tiny_oracle_says,
                resumed_leases_have_their_whole_time_again,
                b4_no_lease_ends_within_its_time_after_a_loss,
                what_was_queued_is_looked_at_again,
                a_young_share_waits_for_its_day,
                a_slot_follows_its_shares,
                what_is_queued_goes_only_if_nobody_leases_it,
                a_retired_share_is_garbage_for_a_week_and_can_be_put_back,
                a_slot_that_was_retired_comes_back_whole,
                what_a_client_removed_comes_back_with_its_leases,
                what_cannot_come_back_is_refused_with_the_reason,
                a_run_is_undone_with_its_owners,
                removed_leases_are_forgotten_after_a_week,
                many_leases_go_at_once,
                a_renewal_that_was_answered_is_never_followed_by_a_missing_share,
            ],
            races: [
                overlapping_writers_make_one_whole_share,
                of_two_commits_on_one_token_exactly_one_wins,
                of_two_enablers_exactly_one_makes_the_slot,
                quota_is_never_exceeded_at_its_edge,
                allocate_against_commit_is_never_both,
                abort_against_record_leaves_no_chunk,
                renewal_against_removal_never_lies,
                one_name_is_given_to_one_account,
            ],
            runs: [
                one_run_of_a_kind_at_a_time,
                a_run_that_is_silent_is_abandoned,
                a_permission_is_for_the_next_run_and_once,
                a_permission_is_not_lost_on_a_run_that_does_not_begin,
                old_runs_are_forgotten,
                of_many_that_begin_at_once_one_does,
            ],
            crawl: [
                a_complete_object_without_a_row_is_adopted_when_it_is_old,
                a_share_whose_object_is_gone_is_lost_until_it_is_back,
                what_nothing_names_is_garbage_and_what_is_on_its_way_is_not,
                what_was_seen_before_a_change_decides_nothing,
                shares_are_paged_by_the_beginning_of_their_storage_index,
                units_are_shared_counted_once_and_split,
                what_is_wrong_is_listed_until_it_is_mended,
                a_database_takes_over_only_before_it_begins,
                recovery_ends_only_after_a_run_that_compared_everything,
            ],
            schedule: [
                usage_equals_a_recount_after_any_schedule,
            ],
        }
    };
}

/// Used by [`leasedb_contract!`](crate::leasedb_contract).
#[doc(hidden)]
#[macro_export]
macro_rules! leasedb_contract_cases {
    ($make:ty; $($module:ident: [$($case:ident,)*],)*) => {
        $(mod $module {
            #[allow(unused_imports, reason = "the type may come from anywhere")]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    $crate::testing::leasedb_contract::$module::$case::<$make>().await;
                }
            )*
        })*
    };
}
