// Package gamepad gives programs in a sandbox gamepads that no kernel driver
// knows. Their device files are terminals that nobody writes to; the first
// ioctl of the input layer on one is caught by a seccomp listener, which puts a
// socket in the file's place and answers for the device from then on. So every
// program that opens /dev/input/event0 or js0 itself finds one, whatever C
// library it has, and nothing is loaded into it.
package gamepad
