//! The store's contract, held by every backend: one suite, checked against a model in memory.

#[path = "store/bed.rs"]
mod bed;
#[path = "store/etcd.rs"]
mod etcd;
#[path = "store/model.rs"]
mod model;
#[path = "store/suite.rs"]
mod suite;

macro_rules! conformance {
    ($backend:ident, $bed:ty $(, #[$attribute:meta])*) => {
        mod $backend {
            #[test]
            $(#[$attribute])*
            fn behaves_like_the_model() {
                crate::suite::behaves_like_the_model::<$bed>();
            }

            #[test]
            $(#[$attribute])*
            fn concurrent_writes_are_one_history_that_all_watchers_see() {
                crate::suite::concurrent_writes_are_one_history::<$bed>();
            }

            #[test]
            $(#[$attribute])*
            fn refusals_name_what_is_there() {
                crate::suite::refusals_name_what_is_there::<$bed>();
            }

            #[test]
            $(#[$attribute])*
            fn a_watcher_too_slow_for_the_window_is_told() {
                crate::suite::a_slow_watcher_is_told::<$bed>();
            }
        }
    };
}

conformance!(memory, crate::bed::InMemory);
conformance!(redb, crate::bed::InFile);

/// Against Debian's etcd, in a network namespace of its own.
#[test]
fn etcd_keeps_the_contract() {
    etcd::in_a_namespace("inside::etcd");
}

mod inside {
    conformance!(etcd, crate::etcd::InEtcd, #[ignore = "is run by the test above"]);

    mod etcd_only {
        #[test]
        #[ignore = "is run by the test above"]
        fn two_servers_are_one_store() {
            crate::etcd::two_servers_are_one_store();
        }

        #[test]
        #[ignore = "is run by the test above"]
        fn tls_on_both_sides() {
            crate::etcd::tls_on_both_sides();
        }

        #[test]
        #[ignore = "is run by the test above"]
        fn a_watch_is_taken_up_again_or_all_is_read_again() {
            crate::etcd::a_watch_is_taken_up_again_or_all_is_read_again();
        }
    }
}
