// Package geo says where an address is, how far apart two places are and what
// round trip to expect, and finds the nearest of many nodes.
//
// Places come from the operator's table of networks and from an MMDB file of the
// City schema; both are optional and read again when they change. Everything
// else in the package is a pure function.
package geo
