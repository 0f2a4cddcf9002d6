//! From what the kubelet asks to what the supervisor executes: entrypoint, environment, user, limits.

use super::passwd;
use crate::config::{ContainerConfig, NamespaceMode, NamespaceOptions, SandboxConfig, SeccompProfile};
use crate::images::{Images, Record};
use crate::proto::{Spec, SpecMount};
use crate::runtime::Error;
use std::path::Path;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command: what is asked for replaces entrypoint and cmd together, arguments alone only cmd.
pub fn command(config: &ContainerConfig, image: &Record) -> Result<Vec<String>, Error> {
    let (mut command, mut args) = (config.command.clone(), config.args.clone());
    if command.is_empty() {
        if args.is_empty() {
            args.clone_from(&image.config.cmd);
        }
        command.clone_from(&image.config.entrypoint);
    }
    command.append(&mut args);
    if command.is_empty() {
        return Err(Error::Invalid("no command specified".into()));
    }
    Ok(command)
}

/// The environment: a default PATH, the image's, what is asked for; the last of a name wins.
pub fn environment(config: &ContainerConfig, image: &Record, hostname: &str, home: &str) -> Vec<String> {
    let mut out: Vec<String> = vec![];
    let mut set = |entry: String| {
        let name = entry.split('=').next().unwrap_or_default().to_owned();
        match out.iter_mut().find(|e| e.split('=').next() == Some(&name)) {
            Some(old) => *old = entry,
            None => out.push(entry),
        }
    };
    set(PATH.into());
    if !hostname.is_empty() {
        set(format!("HOSTNAME={hostname}"));
    }
    set(format!("HOME={home}"));
    if config.tty {
        set("TERM=xterm".into());
    }
    image.config.env.iter().cloned().for_each(&mut set);
    config.env.iter().for_each(|(name, value)| set(format!("{name}={value}")));
    out
}

/// Number of a signal by name or number.
pub fn signal(name: &str) -> Option<i32> {
    let upper = name.to_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = plain.strip_prefix("RTMIN") {
        let offset = offset.strip_prefix('+').unwrap_or("0").parse::<i32>().ok()?;
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    format!("SIG{plain}").parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}

/// The whole description.
pub fn spec(
    id: &str,
    sandbox_id: &str,
    sandbox: &SandboxConfig,
    config: &ContainerConfig,
    images: &Images,
) -> Result<(Spec, Record), Error> {
    let image = find(images, &config.image)?;
    let security = &config.security;
    let layers = images.layout().layers();
    let files = passwd::Files::of(&layers, &image.layers);
    let (user, home) = passwd::resolve(security, &image.config.user, &files).map_err(Error::Invalid)?;
    let host_network = sandbox.namespaces.network == NamespaceMode::Host;
    let hostname = if host_network { own_hostname() } else { sandbox.hostname.clone() };
    let capabilities =
        crate::caps::resolve(security.privileged, &security.add_capabilities, &security.drop_capabilities)
            .map_err(Error::Invalid)?;
    let seccomp = match &security.seccomp {
        _ if security.privileged => vec![],
        SeccompProfile::Unconfined => vec![],
        SeccompProfile::RuntimeDefault => crate::seccomp::runtime_default(capabilities),
        SeccompProfile::Localhost(path) => {
            crate::seccomp::from_file(path, capabilities).map_err(Error::Invalid)?
        }
    };
    let signal_name =
        config.stop_signal.as_deref().filter(|s| !s.is_empty()).unwrap_or(&image.config.stop_signal);
    let stop_signal = if signal_name.is_empty() {
        libc::SIGTERM
    } else {
        signal(signal_name).ok_or_else(|| Error::Invalid(format!("unknown stop signal {signal_name:?}")))?
    };
    let cwd = [config.working_dir.as_str(), &image.config.working_dir, "/"];
    let cwd = cwd.into_iter().find(|d| !d.is_empty()).unwrap_or("/").to_owned();
    Ok((
        Spec {
            id: id.into(),
            sandbox: sandbox_id.into(),
            layers: image.layers.clone(),
            args: command(config, &image)?,
            env: environment(config, &image, &hostname, &home),
            cwd,
            user,
            mounts: mounts(config, images)?,
            devices: config.devices.clone(),
            privileged: security.privileged,
            capabilities,
            no_new_privs: security.no_new_privs,
            readonly_rootfs: security.readonly_rootfs,
            seccomp,
            masked_paths: security.masked_paths.clone(),
            readonly_paths: security.readonly_paths.clone(),
            namespaces: NamespaceOptions {
                user: sandbox.namespaces.user.clone(),
                ..security.namespaces.clone()
            },
            cgroup: cgroup(&sandbox.cgroup_parent, id),
            resources: config.resources.clone(),
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
            stop_signal,
        },
        image,
    ))
}

fn cgroup(parent: &str, id: &str) -> String {
    let parent = parent.trim_matches('/');
    if parent.is_empty() { format!("/{id}") } else { format!("/{parent}/{id}") }
}

fn own_hostname() -> String {
    nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default()
}

fn find(images: &Images, reference: &str) -> Result<Record, Error> {
    images.find(reference)?.ok_or_else(|| Error::not_found("image", reference))
}

/// Mounts by depth of their place, so that none hides one below it.
fn mounts(config: &ContainerConfig, images: &Images) -> Result<Vec<SpecMount>, Error> {
    let mut out = vec![];
    for mount in &config.mounts {
        let layers = match &mount.image {
            Some(image) => find(images, image)?.layers,
            None if !mount.host_path.exists() => {
                let what = mount.host_path.display();
                return Err(Error::Invalid(format!("mount source {what} does not exist")));
            }
            None => vec![],
        };
        out.push(SpecMount { mount: mount.clone(), layers });
    }
    let depth = |p: &Path| p.components().count();
    out.sort_by_key(|m| depth(&m.mount.container_path));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn commands() {
        for (entrypoint, cmd, command_, args, want) in [
            ("e", "c", "", "", "e c"),
            ("e", "c", "", "a", "e a"),
            ("e", "c", "x", "", "x"),
            ("e", "c", "x", "a", "x a"),
            ("", "c", "", "", "c"),
            ("", "", "", "a", "a"),
        ] {
            let mut image = Record::default();
            (image.config.entrypoint, image.config.cmd) = (list(entrypoint), list(cmd));
            let config =
                ContainerConfig { command: list(command_), args: list(args), ..ContainerConfig::default() };
            assert_eq!(command(&config, &image).unwrap(), list(want));
        }
        assert!(command(&ContainerConfig::default(), &Record::default()).is_err());
    }

    #[test]
    fn signals() {
        for (name, want) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGFOO", None),
        ] {
            assert_eq!(signal(name), want, "{name}");
        }
    }

    #[test]
    fn environments() {
        let mut image = Record::default();
        image.config.env = vec!["PATH=/x".into(), "A=1".into()];
        let config = ContainerConfig {
            env: vec![("A".into(), "2=3".into())],
            tty: true,
            ..ContainerConfig::default()
        };
        let got = environment(&config, &image, "h", "/root");
        assert_eq!(got, ["PATH=/x", "HOSTNAME=h", "HOME=/root", "TERM=xterm", "A=2=3"]);
    }
}
