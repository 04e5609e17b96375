//! Matching happens between trigger and kill: an allocation there aborts this test.

use assert_no_alloc::{AllocDisabler, assert_no_alloc};
use lowtide::config::{Paths, load, rule};
use lowtide::sense::process::ProcessInfo;
use lowtide_common::{NEVER, NO_GROUP};
use std::path::Path;

#[global_allocator]
static ALLOCATOR: AllocDisabler = AllocDisabler;

#[test]
fn matching_allocates_nothing() {
    let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/profiles/kiosk.toml");
    let loaded = load(&Paths::new(None, vec![profile])).unwrap_or_else(|p| panic!("{p}"));
    let mut asked = 0;
    let kill = assert_no_alloc(|| {
        let mut attribute = |_: &std::ffi::CStr, _: &mut [u8]| {
            asked += 1;
            None
        };
        let cgroups = [
            &b"system.slice/weston@1.service"[..],
            b"user.slice/user-1000.slice/user@1000.service/app.slice/app-org.chromium.Chromium-1.scope",
            b"nothing/of/the/kind",
        ]
        .map(|path| loaded.matcher.cgroup(path, &mut attribute));
        let rest = rule(&loaded.policy, NO_GROUP);
        let process = loaded.matcher.process(
            &ProcessInfo {
                name: b"chromium-browse",
                exe: Some(b"/usr/lib/chromium/chromium"),
                uid: 1000,
                is_roots: false,
            },
            rest,
        );
        [cgroups[0], cgroups[1], cgroups[2], process]
            .map(|group| group.map(|g| loaded.policy.group(g).kill))
    });
    assert_eq!(kill, [Some(NEVER), Some(700), None, Some(700)]);
    assert_eq!(asked, 0, "no group of this profile asks for attributes");
}
