// Package webtest drives the player and the SDK in a real Chromium against a
// small gateway of its own; it holds tests only.
package webtest
