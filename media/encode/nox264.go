//go:build nox264

package encode

// h264 is none: this build has no libx264, and so no duty under the GPL.
func h264() (recipe, bool) { return recipe{}, false }
