implement MyApp;

include "llambo-ffi.m";
    ffi: LlamboFFI;
    Bridge: import ffi;

init(ctx: ref Draw->Context, args: list of string)
{
    # Load FFI module
    ffi = load LlamboFFI LlamboFFI->PATH;
    ffi->init(ctx, nil);
    
    # Connect to bridge
    bridge := Bridge.connect("");
    if (bridge == nil) {
        print("Failed to connect to bridge\n");
        return;
    }
    
    # Load model
    (ok, msg) := bridge.load_model("/path/to/model.gguf");
    if (ok > 0) {
        print("Model loaded: %s\n", msg);
        
        # Perform inference
        (ok, msg, result) := bridge.infer("Hello, world!");
        if (ok > 0) {
            print("Result: %s\n", result);
        }
    }
    
    # Cleanup
    bridge.disconnect();
}
