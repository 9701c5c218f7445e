//! The arrows of the design, held by a test: dependencies, top level, licences, file heads.

use kobune_tests::tree::{Workspace, layering, licences, sources};

fn workspace() -> Workspace {
    Workspace::read().expect("cargo metadata")
}

#[test]
fn dependencies_follow_the_arrows() {
    assert_eq!(layering::arrows(&workspace().metadata), Vec::<String>::new());
}

#[test]
fn the_top_level_is_the_architecture() {
    let entries = layering::visible_entries(&workspace().root);
    assert_eq!(layering::top_level(&entries), Vec::<String>::new());
}

#[test]
fn control_plane_and_agent_forbid_unsafe() {
    assert_eq!(layering::unsafe_forbidden(&workspace().root), Vec::<String>::new());
}

#[test]
fn licences_are_permissive() {
    assert_eq!(licences::offences(&workspace().metadata), Vec::<String>::new());
}

#[test]
fn files_have_heads_and_keep_unsafe_in_its_room() {
    assert_eq!(sources::offences(&workspace().root), Vec::<String>::new());
}
