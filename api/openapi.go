package api

import _ "embed" // for the document

//go:embed openapi.yaml
var openAPI string

// OpenAPI gives the OpenAPI 3 document of the HTTP API, as YAML.
func OpenAPI() string { return openAPI }
