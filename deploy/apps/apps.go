// Package apps holds the manifests of the demo applications: real programs from
// Debian's packages that `perigee dev` offers, and samples for an operator.
package apps

import "embed"

// Files are the manifests, one YAML file each, as `perigee app put` reads them.
//
//go:embed *.yaml
var Files embed.FS
