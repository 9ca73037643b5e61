package webtest

// sdkPage is somebody else's page that uses the SDK as a module and as a
// plain script.
const sdkPage = `<!doctype html><title>SDK</title>
<script src="/static/perigee-sdk.iife.js"></script>
<script type="module">
import * as sdk from "/static/perigee-sdk.js";
window.sdk = sdk;
</script>
<style>body { margin: 0 } #box { position: absolute; left: 100px; top: 50px; width: 640px; height: 400px; background: #000 }</style>
<div id="box"></div>`
