package fleet

// Size is a run that bench asks TestFleetSurvives for, by the environment
// variable SizeVariable, as JSON.
type Size struct {
	Config Config
	Calm   bool   // nothing happens: for the distributions that the model draws from
	Out    string // file for the Result, as JSON
}

// SizeVariable holds a Size.
const SizeVariable = "PERIGEE_FLEET"
