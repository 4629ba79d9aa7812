#!/usr/bin/env bash
# Build an image: docker/image.sh [cpu|gpu]. With docker where its engine runs, else buildah, else podman; or IMAGE_ENGINE.
#
#   IMAGE_NAME        its name, distrain:TARGET where not set
#   IMAGE_BASE        another base image than the pinned one
#   IMAGE_SETTINGS    a file of NAME=value lines for the build alone, such as UV_DEFAULT_INDEX=...
#   SSL_CERT_FILE     the certificates that the build trusts, where this is set
#
# Where the registry of the base image cannot be reached and debootstrap is there, one is made of Debian's packages.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-cpu}
name=${IMAGE_NAME:-distrain:$target}
engine=${IMAGE_ENGINE:-}
for candidate in docker buildah podman; do
    [ -z "$engine" ] && "$candidate" info >/dev/null 2>&1 && engine=$candidate
done
[ -n "$engine" ] || { echo "error: none of docker, buildah, podman works here" >&2; exit 2; }

arguments=(--target "$target" --file docker/Dockerfile --tag "$name"
    --build-arg "VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)"
    --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
[ -z "${IMAGE_SETTINGS:-}" ] || arguments+=(--secret "id=settings,src=$IMAGE_SETTINGS")
[ -z "${SSL_CERT_FILE:-}" ] || arguments+=(--secret "id=certificates,src=$SSL_CERT_FILE")

# Needs no rights and no runtime beside its own.
export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
local_base=localhost/debian:bookworm-slim
make_local_base() {
    local folder container mirror
    folder=$(mktemp -d)
    echo "the base image's registry cannot be reached: making $local_base by debootstrap" >&2
    debootstrap --variant=minbase bookworm "$folder/root" >"$folder/log" 2>&1 || { tail -5 "$folder/log" >&2; exit 1; }
    rm -rf "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/lib/apt/lists/* "$folder"/root/var/log/*
    # What debootstrap takes from this machine.
    : >"$folder/root/etc/resolv.conf"
    rm -f "$folder/root/etc/hostname"
    # Debian's own mirror, which debootstrap knows.
    mirror=$(sed -n 's/^DEF_MIRROR="\(.*\)"$/\1/p' "$(command -v debootstrap)")
    printf 'deb %s bookworm%s main\n' "$mirror" '' "$mirror" -updates "$mirror-security" -security \
        >"$folder/root/etc/apt/sources.list"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$folder/root" / >/dev/null
    buildah config --cmd bash "$container"
    buildah commit --quiet "$container" "$local_base" >/dev/null
    buildah rm "$container" >/dev/null
    rm -rf "$folder"
}

base=${IMAGE_BASE:-}
if [ "$engine" = buildah ]; then
    # HEALTHCHECK is not in the OCI form.
    arguments+=(--format docker)
    pinned=$(sed -n 's/^ARG BASE=//p' docker/Dockerfile)
    if [ -z "$base" ] && ! buildah pull --quiet "$pinned" >/dev/null 2>&1 && command -v debootstrap >/dev/null; then
        buildah inspect --type image "$local_base" >/dev/null 2>&1 || make_local_base
        base=$local_base
    fi
fi
[ -z "$base" ] || arguments+=(--build-arg "BASE=$base")

case $engine in
buildah) exec buildah build "${arguments[@]}" . ;;
*) DOCKER_BUILDKIT=1 exec "$engine" build "${arguments[@]}" . ;;
esac
