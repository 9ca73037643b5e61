// Package image fetches the images of containers through the node's containerd,
// verifies and unpacks them, and keeps them for the next instance. It runs
// nothing: an instance's sandbox is made by edge/instance on the folders that
// this package gives.
package image
