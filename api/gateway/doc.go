// Package gateway is the HTTP and websocket server of Perigee: the wire
// contract of the Anbox stream gateway, with our additions under the key
// "perigee". It declares the interfaces it needs and is handed them.
package gateway
