// SPDX-License-Identifier: Apache-2.0
// The three functions that a host finds, and the actions it calls. No exception leaves this file.
#include <cstring>
#include <exception>
#include <memory>
#include <new>

#include "effect.h"
#include "settings.generated.h"

namespace vs3r {
namespace {

using namespace ofx;

Host* g_host = nullptr;

Status load() { return fetch_suites(g_host) ? kOk : kErrMissingHostFeature; }

Status unload() {
  forget_uploads();
  engine().stop();
  return kOk;
}

// Where the host has temporal access, Analyze may read the clip's frames; Resolve names the file instead.
bool wants_other_frames() {
  return get_int(suites().host, prop::kTemporalClipAccess, 0) != 0 && get_string(suites().host, prop::kName).rfind("DaVinciResolve", 0) != 0;
}

Status describe(ImageEffect effect) {
  if (!suites().property && load() != kOk) return kErrMissingHostFeature;
  PropertySet set = nullptr;
  if (suites().effect->getPropertySet(effect, &set) != kOk) return kErrBadHandle;
  set_string(set, prop::kLabel, "VS3R Stabilize");
  set_string(set, prop::kGrouping, "VS3R");
  set_string(set, prop::kPluginDescription,
             "Steadies a hand-held shot in 3D and fills its edges, so that nothing is cropped. The work is done by the VS3R engine on this machine.");
  set_string(set, prop::kSupportedContexts, kContextFilter, 0);
  set_string(set, prop::kSupportedContexts, kContextGeneral, 1);
  int index = 0;
  for (const char* depth : {kDepthFloat, kDepthHalf, kDepthShort, kDepthByte}) set_string(set, prop::kSupportedPixelDepths, depth, index++);
  set_int(set, prop::kSupportsTiles, 0);
  set_int(set, prop::kSupportsMultiResolution, 1);
  set_int(set, prop::kTemporalClipAccess, wants_other_frames());
  set_int(set, prop::kSingleInstance, 0);
  set_int(set, prop::kHostFrameThreading, 0);
  // Both fields of an interlaced timeline are one frame of the media.
  set_int(set, prop::kFieldRenderTwiceAlways, 0);
  set_string(set, prop::kRenderThreadSafety, kSafetyFull);
  return kOk;
}

Status describe_in_context(ImageEffect effect) {
  for (const char* name : {"Source", "Output"}) {
    PropertySet clip = nullptr;
    if (suites().effect->clipDefine(effect, name, &clip) != kOk) return kErrMissingHostFeature;
    set_string(clip, prop::kSupportedComponents, kComponentRgba, 0);
    set_string(clip, prop::kSupportedComponents, kComponentRgb, 1);
    set_int(clip, prop::kSupportsTiles, 0);
    set_string(clip, prop::kFieldExtraction, kFieldBoth);
    set_int(clip, prop::kTemporalClipAccess, std::strcmp(name, "Source") == 0 && wants_other_frames());
  }
  ParamSet parameters = nullptr;
  if (suites().effect->getParamSet(effect, &parameters) != kOk) return kErrMissingHostFeature;
  describe_parameters(parameters);
  return kOk;
}

Status set_instance(ImageEffect effect, Effect* data) {
  PropertySet set = nullptr;
  if (suites().effect->getPropertySet(effect, &set) != kOk) return kErrBadHandle;
  return suites().property->setPointer(set, prop::kInstanceData, 0, data);
}

Status act(const char* name, const void* handle, PropertySet in_args, PropertySet out_args) {
  auto is = [name](const char* action) { return std::strcmp(name, action) == 0; };
  auto effect = static_cast<ImageEffect>(const_cast<void*>(handle));
  if (is(action::kLoad)) return load();
  if (is(action::kUnload)) return unload();
  if (is(action::kDescribe)) return describe(effect);
  if (!suites().property) return kReplyDefault;
  if (is(action::kDescribeInContext)) return describe_in_context(effect);
  if (is(action::kCreateInstance)) {
    auto created = std::make_unique<Effect>(effect);
    const Status status = set_instance(effect, created.get());
    if (status == kOk) created.release();
    return status;
  }
  if (is(action::kGetClipPreferences)) {
    // The result differs from frame to frame even where the source stands still.
    set_int(out_args, prop::kFrameVarying, 1);
    return kOk;
  }
  const bool is_for_instance = is(action::kDestroyInstance) || is(action::kRender) || is(action::kIsIdentity) || is(action::kInstanceChanged) ||
                               is(action::kEndInstanceChanged) || is(action::kBeginInstanceEdit) || is(action::kEndInstanceEdit) ||
                               is(action::kSyncPrivateData);
  if (!is_for_instance) return kReplyDefault;
  Effect* instance = effect ? Effect::of(effect) : nullptr;
  if (!instance) return kErrBadHandle;
  if (is(action::kDestroyInstance)) {
    set_instance(effect, nullptr);
    delete instance;
    return kOk;
  }
  if (is(action::kRender)) return instance->render(in_args);
  if (is(action::kIsIdentity)) return instance->is_identity(in_args, out_args);
  if (is(action::kInstanceChanged)) return instance->changed(in_args);
  instance->refresh();
  return kOk;
}

Status main_entry(const char* name, const void* handle, PropertySet in_args, PropertySet out_args) {
  try {
    return name ? act(name, handle, in_args, out_args) : kErrValue;
  } catch (const std::bad_alloc&) {
    return kErrMemory;
  } catch (...) {
    return kErrUnknown;
  }
}

void set_host(Host* host) { g_host = host; }

}  // namespace

Engine& engine() {
  static Engine the_engine;
  return the_engine;
}

}  // namespace vs3r

OFX_EXPORT int OfxGetNumberOfPlugins(void) { return 1; }

OFX_EXPORT ofx::Plugin* OfxGetPlugin(int nth) {
  static ofx::Plugin plugin = {ofx::kImageEffectApi, 1, "org.vs3r.Stabilize", vs3r::settings::kMajor, vs3r::settings::kMinor, vs3r::set_host, vs3r::main_entry};
  return nth == 0 ? &plugin : nullptr;
}

OFX_EXPORT ofx::Status OfxSetHost(const ofx::Host* host) {
  vs3r::g_host = const_cast<ofx::Host*>(host);
  return ofx::kOk;
}
