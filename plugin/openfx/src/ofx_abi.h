// SPDX-License-Identifier: Apache-2.0
// The part of the OpenFX C interface (image effect API 1.0 to 1.5) that this plug-in uses: structs in the order of the
// specification, property names as the strings that cross the boundary. Many strings differ from the macro names of the
// specification's own headers; what stands here is what hosts compare.
#pragma once

#include <cstddef>

#if defined(_WIN32)
#define OFX_EXPORT extern "C" __declspec(dllexport)
#else
#define OFX_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace ofx {

extern "C" {

using Status = int;
using Time = double;
struct PropertySetStruct;
struct ImageEffectStruct;
struct ImageClipStruct;
struct ImageMemoryStruct;
struct ParamStruct;
struct ParamSetStruct;
using PropertySet = PropertySetStruct*;
using ImageEffect = ImageEffectStruct*;
using ImageClip = ImageClipStruct*;
using ImageMemory = ImageMemoryStruct*;
using Param = ParamStruct*;
using ParamSet = ParamSetStruct*;

struct RectI { int x1, y1, x2, y2; };
struct RectD { double x1, y1, x2, y2; };

struct Host {
  PropertySet host;
  const void* (*fetchSuite)(PropertySet host, const char* suite_name, int suite_version);
};

struct Plugin {
  const char* pluginApi;
  int apiVersion;
  const char* pluginIdentifier;
  unsigned int pluginVersionMajor;
  unsigned int pluginVersionMinor;
  void (*setHost)(Host* host);
  Status (*mainEntry)(const char* action, const void* handle, PropertySet in_args, PropertySet out_args);
};

struct PropertySuite {
  Status (*setPointer)(PropertySet, const char* name, int index, void* value);
  Status (*setString)(PropertySet, const char* name, int index, const char* value);
  Status (*setDouble)(PropertySet, const char* name, int index, double value);
  Status (*setInt)(PropertySet, const char* name, int index, int value);
  Status (*setPointerN)(PropertySet, const char* name, int count, void* const* values);
  Status (*setStringN)(PropertySet, const char* name, int count, const char* const* values);
  Status (*setDoubleN)(PropertySet, const char* name, int count, const double* values);
  Status (*setIntN)(PropertySet, const char* name, int count, const int* values);
  Status (*getPointer)(PropertySet, const char* name, int index, void** value);
  Status (*getString)(PropertySet, const char* name, int index, char** value);
  Status (*getDouble)(PropertySet, const char* name, int index, double* value);
  Status (*getInt)(PropertySet, const char* name, int index, int* value);
  Status (*getPointerN)(PropertySet, const char* name, int count, void** values);
  Status (*getStringN)(PropertySet, const char* name, int count, char** values);
  Status (*getDoubleN)(PropertySet, const char* name, int count, double* values);
  Status (*getIntN)(PropertySet, const char* name, int count, int* values);
  Status (*reset)(PropertySet, const char* name);
  Status (*getDimension)(PropertySet, const char* name, int* count);
};

struct ImageEffectSuite {
  Status (*getPropertySet)(ImageEffect, PropertySet*);
  Status (*getParamSet)(ImageEffect, ParamSet*);
  Status (*clipDefine)(ImageEffect, const char* name, PropertySet*);
  Status (*clipGetHandle)(ImageEffect, const char* name, ImageClip*, PropertySet*);
  Status (*clipGetPropertySet)(ImageClip, PropertySet*);
  Status (*clipGetImage)(ImageClip, Time, const RectD* region, PropertySet* image);
  Status (*clipReleaseImage)(PropertySet image);
  Status (*clipGetRegionOfDefinition)(ImageClip, Time, RectD* bounds);
  int (*abort)(ImageEffect);
  Status (*imageMemoryAlloc)(ImageEffect, size_t bytes, ImageMemory*);
  Status (*imageMemoryFree)(ImageMemory);
  Status (*imageMemoryLock)(ImageMemory, void** data);
  Status (*imageMemoryUnlock)(ImageMemory);
};

struct ParameterSuite {
  Status (*paramDefine)(ParamSet, const char* type, const char* name, PropertySet*);
  Status (*paramGetHandle)(ParamSet, const char* name, Param*, PropertySet*);
  Status (*paramSetGetPropertySet)(ParamSet, PropertySet*);
  Status (*paramGetPropertySet)(Param, PropertySet*);
  Status (*paramGetValue)(Param, ...);
  Status (*paramGetValueAtTime)(Param, Time, ...);
  Status (*paramGetDerivative)(Param, Time, ...);
  Status (*paramGetIntegral)(Param, Time, Time, ...);
  Status (*paramSetValue)(Param, ...);
  Status (*paramSetValueAtTime)(Param, Time, ...);
  Status (*paramGetNumKeys)(Param, unsigned int*);
  Status (*paramGetKeyTime)(Param, unsigned int nth, Time*);
  Status (*paramGetKeyIndex)(Param, Time, int direction, int* index);
  Status (*paramDeleteKey)(Param, Time);
  Status (*paramDeleteAllKeys)(Param);
  Status (*paramCopy)(Param to, Param from, Time offset, const RectD* range);
  Status (*paramEditBegin)(ParamSet, const char* name);
  Status (*paramEditEnd)(ParamSet);
};

struct MessageSuite {
  Status (*message)(void* handle, const char* type, const char* id, const char* format, ...);
  // From version 2 on:
  Status (*setPersistentMessage)(void* handle, const char* type, const char* id, const char* format, ...);
  Status (*clearPersistentMessage)(void* handle);
};

struct ProgressSuiteV1 {
  Status (*progressStart)(void* instance, const char* label);
  Status (*progressUpdate)(void* instance, double progress);
  Status (*progressEnd)(void* instance);
};

struct ProgressSuiteV2 {
  Status (*progressStart)(void* instance, const char* message, const char* message_id);
  Status (*progressUpdate)(void* instance, double progress);
  Status (*progressEnd)(void* instance);
};

}  // extern "C"

constexpr Status kOk = 0, kFailed = 1, kErrUnknown = 3, kErrMissingHostFeature = 4, kErrMemory = 8, kErrBadHandle = 9, kErrValue = 11,
                 kReplyNo = 13, kReplyDefault = 14, kErrImageFormat = 1000;

constexpr const char* kImageEffectApi = "OfxImageEffectPluginAPI";
constexpr const char *kPropertySuite = "OfxPropertySuite", *kImageEffectSuite = "OfxImageEffectSuite",
                     *kParameterSuite = "OfxParameterSuite", *kMessageSuite = "OfxMessageSuite", *kProgressSuite = "OfxProgressSuite";

namespace action {
constexpr const char *kLoad = "OfxActionLoad", *kUnload = "OfxActionUnload", *kDescribe = "OfxActionDescribe",
                     *kDescribeInContext = "OfxImageEffectActionDescribeInContext", *kCreateInstance = "OfxActionCreateInstance",
                     *kDestroyInstance = "OfxActionDestroyInstance", *kInstanceChanged = "OfxActionInstanceChanged",
                     *kEndInstanceChanged = "OfxActionEndInstanceChanged",
                     *kBeginInstanceEdit = "OfxActionBeginInstanceEdit", *kEndInstanceEdit = "OfxActionEndInstanceEdit",
                     *kSyncPrivateData = "OfxActionSyncPrivateData", *kIsIdentity = "OfxImageEffectActionIsIdentity",
                     *kRender = "OfxImageEffectActionRender", *kGetClipPreferences = "OfxImageEffectActionGetClipPreferences";
}  // namespace action

namespace prop {
constexpr const char *kName = "OfxPropName", *kLabel = "OfxPropLabel", *kType = "OfxPropType", *kTime = "OfxPropTime",
                     *kInstanceData = "OfxPropInstanceData", *kChangeReason = "OfxPropChangeReason",
                     *kPluginDescription = "OfxPropPluginDescription", *kGrouping = "OfxImageEffectPluginPropGrouping";
// Effects
constexpr const char *kSupportedContexts = "OfxImageEffectPropSupportedContexts",
                     *kSupportedPixelDepths = "OfxImageEffectPropSupportedPixelDepths",
                     *kSupportedComponents = "OfxImageEffectPropSupportedComponents",
                     *kSupportsMultiResolution = "OfxImageEffectPropSupportsMultiResolution",
                     *kSupportsTiles = "OfxImageEffectPropSupportsTiles",
                     *kTemporalClipAccess = "OfxImageEffectPropTemporalClipAccess",
                     *kRenderThreadSafety = "OfxImageEffectPluginRenderThreadSafety",
                     *kHostFrameThreading = "OfxImageEffectPluginPropHostFrameThreading",
                     *kSingleInstance = "OfxImageEffectPluginPropSingleInstance",
                     *kFieldRenderTwiceAlways = "OfxImageEffectPluginPropFieldRenderTwiceAlways", *kFrameVarying = "OfxImageEffectFrameVarying",
                     *kSrcFilePath = "OfxImageEffectPropSrcFilePath";
// Render arguments
constexpr const char *kRenderWindow = "OfxImageEffectPropRenderWindow",
                     *kInteractiveRender = "OfxImageEffectPropInteractiveRenderStatus", *kSrcFrame = "OfxImageEffectPropSrcFrame",
                     *kThumbnailRender = "OfxImageEffectPropThumbnailRender", *kClipThumbnail = "kOfxImageClipPropThumbnail";
// Clips and images
constexpr const char *kConnected = "OfxImageClipPropConnected", *kFieldExtraction = "OfxImageClipPropFieldExtraction",
                     *kFrameRange = "OfxImageEffectPropFrameRange",
                     *kFrameRate = "OfxImageEffectPropFrameRate", *kPixelDepth = "OfxImageEffectPropPixelDepth",
                     *kComponents = "OfxImageEffectPropComponents", *kPreMultiplication = "OfxImageEffectPropPreMultiplication",
                     *kPixelAspectRatio = "OfxImagePropPixelAspectRatio", *kData = "OfxImagePropData",
                     *kBounds = "OfxImagePropBounds", *kRegionOfDefinition = "OfxImagePropRegionOfDefinition",
                     *kRowBytes = "OfxImagePropRowBytes";
// Parameters
constexpr const char *kHint = "OfxParamPropHint", *kDefault = "OfxParamPropDefault", *kAnimates = "OfxParamPropAnimates",
                     *kMin = "OfxParamPropMin", *kMax = "OfxParamPropMax", *kDisplayMin = "OfxParamPropDisplayMin",
                     *kDisplayMax = "OfxParamPropDisplayMax", *kSecret = "OfxParamPropSecret", *kParent = "OfxParamPropParent",
                     *kPersistent = "OfxParamPropPersistant", *kEvaluateOnChange = "OfxParamPropEvaluateOnChange",
                     *kCanUndo = "OfxParamPropCanUndo", *kChoiceOption = "OfxParamPropChoiceOption",
                     *kStringMode = "OfxParamPropStringMode", *kStringPathExists = "OfxParamPropStringFilePathExists",
                     *kDigits = "OfxParamPropDigits", *kGroupOpen = "OfxParamPropGroupOpen";
}  // namespace prop

constexpr const char *kContextFilter = "OfxImageEffectContextFilter", *kContextGeneral = "OfxImageEffectContextGeneral";
constexpr const char *kDepthByte = "OfxBitDepthByte", *kDepthShort = "OfxBitDepthShort", *kDepthHalf = "OfxBitDepthHalf",
                     *kDepthFloat = "OfxBitDepthFloat";
constexpr const char *kComponentRgba = "OfxImageComponentRGBA", *kComponentRgb = "OfxImageComponentRGB";
constexpr const char* kPremultiplied = "OfxImageAlphaPremultiplied";
constexpr const char* kFieldBoth = "OfxFieldBoth";
constexpr const char *kSafetyFull = "OfxImageEffectRenderFullySafe";
constexpr const char *kChangeUserEdited = "OfxChangeUserEdited";
constexpr const char *kTypeParameter = "OfxTypeParameter";
constexpr const char *kParamInteger = "OfxParamTypeInteger", *kParamDouble = "OfxParamTypeDouble", *kParamChoice = "OfxParamTypeChoice",
                     *kParamString = "OfxParamTypeString", *kParamPushButton = "OfxParamTypePushButton",
                     *kParamGroup = "OfxParamTypeGroup";
constexpr const char *kStringLabel = "OfxParamStringIsLabel", *kStringFilePath = "OfxParamStringIsFilePath",
                     *kStringSingleLine = "OfxParamStringIsSingleLine";
constexpr const char *kMessageError = "OfxMessageError", *kMessageLog = "OfxMessageLog";

}  // namespace ofx
