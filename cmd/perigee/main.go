// Command perigee is the scheduler and the command line of Perigee.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

// run executes one command line and gives the exit status.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	root := newRoot(newScheduler, newDev)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	return report(root.ExecuteContext(ctx), errs)
}

// report writes an error as one line with what can be done about it.
func report(err error, errs io.Writer) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[exitError](err); ok { // the command has said all
		return e.status
	}
	_, _ = fmt.Fprintln(errs, "perigee:", explain(err)) // nothing is left to tell of a broken stderr
	if isUsage(err) {
		return exitUsage
	}
	return exitFailed
}
