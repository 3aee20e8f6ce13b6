//! The remedy for a user who may not open `/dev/kvm`. It depends on the owner and group of the device.

use std::os::unix::fs::MetadataExt;

/// The bits of a mode that allow reading and writing.
const OPEN: u32 = 0o6;

/// The remedy for this user on this host.
pub(super) fn remedy() -> String {
    let Ok(device) = std::fs::metadata("/dev/kvm") else { return of_container() };
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let is_root = rustix::process::geteuid().is_root();
    of(device.mode() & 0o777, is_root, device.gid(), name_of(&groups, device.gid()).as_deref())
}

/// The remedy for a device with this mode and group.
fn of(mode: u32, is_root: bool, gid: u32, name: Option<&str>) -> String {
    if is_root || mode & OPEN == OPEN {
        return of_container();
    }
    // Users should not be in root's group to run guests.
    if mode >> 3 & OPEN == OPEN && gid != 0 {
        let name = name.map_or_else(|| gid.to_string(), str::to_owned);
        return format!(
            "add this user to the group that owns it (`usermod -aG {name} $USER`), and log in again"
        );
    }
    format!(
        "its mode {mode:04o} lets root alone open it, no group; as root, let this user (`setfacl -m u:$USER:rw /dev/kvm`)"
    )
}

fn of_container() -> String {
    "its mode allows it, so a container or its device cgroup forbids it (pass the device, as `docker run --device /dev/kvm` does)"
        .into()
}

/// The name of a group, from the text of `/etc/group`.
fn name_of(groups: &str, gid: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_fits_the_device() {
        let of = |mode, gid, name| of(mode, false, gid, name);
        assert!(of(0o660, 104, Some("virt")).contains("usermod -aG virt $USER"));
        assert!(of(0o660, 104, None).contains("usermod -aG 104 $USER"));
        for alone in [of(0o600, 0, Some("root")), of(0o640, 104, Some("kvm")), of(0o660, 0, Some("root"))] {
            assert!(alone.contains("setfacl") && !alone.contains("usermod"), "{alone}");
        }
        assert!(of(0o666, 0, Some("root")).contains("container"));
        assert!(super::of(0o600, true, 0, None).contains("container"));
    }

    #[test]
    fn a_group_has_the_name_of_its_number() {
        let groups = "root:x:0:\nbroken\nkvm:x:104:ada,bo\n";
        assert_eq!(name_of(groups, 104).as_deref(), Some("kvm"));
        assert_eq!(name_of(groups, 4), None);
    }
}
