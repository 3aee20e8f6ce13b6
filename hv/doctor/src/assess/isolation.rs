//! What isolates guests and hv from the host, and tap devices.

use super::super::{Facts, Finding, State, Tap};

pub(super) fn seccomp(facts: &Facts) -> Finding {
    match &facts.no_seccomp {
        None => {
            Finding::new("seccomp", State::Ok, "filters are taken", "guests in processes can be confined")
        }
        Some(error) => {
            let means = "a guest in a process would not be confined: hv starts none; KVM does not need it";
            Finding::new("seccomp", State::Missing, format!("refused: {error}"), means).remedy(
                "use a kernel with CONFIG_SECCOMP_FILTER, and a container whose policy allows seccomp(2)",
            )
        }
    }
}

pub(super) fn namespaces(facts: &Facts) -> Finding {
    let name = "user-namespaces";
    let most = facts.max_user_namespaces;
    let count = most.map_or("there".into(), |most| format!("at most {most}"));
    let reason = match &facts.process.no_namespaces {
        Some(reason) => reason,
        None if most.is_none() => "the kernel has none",
        None if most == Some(0) => "user.max_user_namespaces is 0",
        None => {
            // With a right of root they do not keep this process from them.
            let means = "each guest's process is apart from the host's files, network and processes";
            return Finding::new(name, State::Ok, count, means);
        }
    };
    let means =
        "guests in processes have one wall less, their system-call filter holds; KVM does not need them";
    let settings = match most {
        Some(0) => vec!["user.max_user_namespaces=10000"],
        _ => facts.forbidding.clone(),
    };
    let remedy = match (settings.is_empty(), most) {
        (_, None) => "use a kernel with CONFIG_USER_NS".to_owned(),
        (false, _) => format!("sysctl -w {}", settings.join(" ")),
        (true, _) => "allow clone(2) with CLONE_NEWUSER in the container's seccomp policy, or raise user.max_user_namespaces".into(),
    };
    Finding::new(name, State::Weaker, format!("refused: {reason}"), means).remedy(remedy)
}

pub(super) fn landlock(facts: &Facts) -> Finding {
    match &facts.landlock {
        Ok(version) => {
            let found = format!("version {version}");
            Finding::new(
                "landlock",
                State::Ok,
                found,
                "hv can shut itself off from files that it does not need",
            )
            .figure("version_count", u64::from(*version))
        }
        Err(error) => {
            let means =
                "hv cannot shut itself off from files that it does not need; guests are confined as ever";
            Finding::new("landlock", State::Weaker, format!("refused: {error}"), means)
                .remedy("use Linux 5.13 or newer with landlock in its list of security modules (boot option lsm=landlock,…)")
        }
    }
}

pub(super) fn tap(facts: &Facts) -> Finding {
    let user = "--net user works without";
    match facts.tap {
        Tap::Usable { may_make: true } => Finding::new(
            "tap",
            State::Ok,
            "/dev/net/tun, CAP_NET_ADMIN",
            "--net tap=NAME works, and devices can be made",
        ),
        Tap::Usable { may_make: false } => {
            let means = "--net tap=NAME works with a device that was made for this user";
            Finding::new("tap", State::Ok, "/dev/net/tun", means)
                .remedy("ip tuntap add dev NAME mode tap user $USER, as root")
        }
        Tap::NoDevice => {
            Finding::new("tap", State::Missing, "no /dev/net/tun", format!("no --net tap=NAME; {user}"))
                .remedy("modprobe tun, or pass the device into this container")
        }
        Tap::NotPermitted => {
            let means = format!("no --net tap=NAME; {user}");
            Finding::new("tap", State::Missing, "/dev/net/tun: permission denied", means).remedy(
                "chmod 666 /dev/net/tun, as root: what a user may do with it, the device's owner decides",
            )
        }
    }
}
